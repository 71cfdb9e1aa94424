package nat

import (
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// pair makes the tuples of a TCP flow from their four addresses.
func pair(src, dst, replySrc, replyDst string) (original, reply tuple.Tuple) {
	side := func(src, dst string, from, to uint16) tuple.Tuple {
		return tuple.Tuple{Src: addr(src), Dst: addr(dst), SrcPort: from, DstPort: to, Proto: tuple.TCP, Family: tuple.IPv4}
	}
	return side(src, dst, 40000, 21), side(replySrc, replyDst, 21, 40000)
}

func TestInherit(t *testing.T) {
	const client, gateway, server, inner, other = "10.0.0.5", "203.0.113.1", "198.51.100.7", "10.0.0.9", "192.0.2.3"
	for _, tt := range []struct {
		claim    string
		master   [4]string // source and destination, of the original and of the reply direction
		src, dst string
		want     Ends
		newSrc   string
		newDst   string
	}{
		{"an answer to a masqueraded client reaches it", [4]string{client, server, server, gateway}, server, gateway, DstEnd | SrcEnd, server, client},
		{"a masqueraded client stays masqueraded", [4]string{client, server, server, gateway}, client, server, DstEnd | SrcEnd, gateway, server},
		{"somebody else reaches a masqueraded client, unchanged", [4]string{client, server, server, gateway}, other, gateway, DstEnd, "", client},
		{"somebody else's source is for the rules", [4]string{client, server, server, gateway}, inner, server, DstEnd, "", server},
		{"a forwarded port leads to the same server", [4]string{other, gateway, inner, other}, other, gateway, DstEnd | SrcEnd, other, inner},
		{"a server behind a forwarded port appears as the gateway", [4]string{other, gateway, inner, other}, inner, other, DstEnd | SrcEnd, gateway, other},
		{"in a hairpin the source tells the directions apart", [4]string{client, gateway, inner, gateway}, inner, gateway, DstEnd | SrcEnd, gateway, client},
		{"there the client's own flows go the way of its first", [4]string{client, gateway, inner, gateway}, client, gateway, DstEnd | SrcEnd, gateway, inner},
		{"an untranslated master has untranslated children", [4]string{client, server, server, client}, server, client, DstEnd | SrcEnd, server, client},
		{"a flow to somewhere else is for the rules", [4]string{client, server, server, gateway}, client, other, 0, "", ""},
	} {
		original, reply := pair(tt.master[0], tt.master[1], tt.master[2], tt.master[3])
		k, _ := pair(tt.src, tt.dst, tt.dst, tt.src)
		k.SrcPort, k.DstPort = 20, 2000
		got := Inherit(&k, &original, &reply)
		if got.Says != tt.want {
			t.Errorf("%s: says %b, want %b", tt.claim, got.Says, tt.want)
			continue
		}
		want := k
		if tt.want&DstEnd != 0 {
			want.Dst = addr(tt.newDst)
		}
		to := got.Apply(k)
		if to != want {
			t.Errorf("%s: goes to %v, want %v", tt.claim, to, want)
		}
		if tt.want&SrcEnd == 0 {
			continue
		}
		want.Src = addr(tt.newSrc)
		search := got.Search(to, 1)
		if cand, why, ok := search.Next(); !ok || cand != want || why != Preserved {
			t.Errorf("%s: leaves as %v (%v), want %v", tt.claim, cand, why, want)
		}
	}
}

// TestChildrenLookLikeTheirMasters holds a child in both directions against the
// master: whoever talks over the one sees the same addresses over the other.
func TestChildrenLookLikeTheirMasters(t *testing.T) {
	original, reply := pair("10.0.0.5", "203.0.113.1", "10.0.0.9", "192.0.2.77") // both ends translated
	for _, dir := range []struct {
		there, back *tuple.Tuple
	}{{&original, &reply}, {&reply, &original}} {
		k := *dir.there
		k.SrcPort, k.DstPort = 3000, 2000
		i := Inherit(&k, &original, &reply)
		search := i.Search(i.Apply(k), 7)
		out, _, _ := search.Next()
		answer, _ := out.Inverse()
		if answer.Src != dir.back.Src || answer.Dst != dir.back.Dst {
			t.Errorf("answers to %v are %v, want the addresses of %v", k, answer, dir.back)
		}
	}
}
