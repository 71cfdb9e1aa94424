package ctfmt

import (
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// The lines were taken from conntrack 1.4.7 for the same flows.
func TestAppendSave(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    conntrack.Flow
		want string
	}{
		{"translated", translated, "-A -t 118 -u SEEN_REPLY,ASSURED -s 10.0.0.5 -d 198.51.100.7 -r 198.51.100.7 -n 203.0.113.1 -p tcp --sport 40001 --dport 443 --reply-port-src 443 --reply-port-dst 6000 --state ESTABLISHED"},
		{"zone of one direction", halfZoned, "-A -t 118 -u UNSET --orig-zone 3 -s 10.0.0.5 -d 10.0.0.6 -r 10.0.0.6 -q 10.0.0.5 -p udp --sport 40001 --dport 53 --reply-port-src 53 --reply-port-dst 40001"},
		{"zone", zoned, "-A -t 118 -u SEEN_REPLY -w 7 -s 2001:db8::5 -d 2001:db8::7 -r 2001:db8::7 -q 2001:db8::5 -p udp --sport 40001 --dport 53 --reply-port-src 53 --reply-port-dst 40001"},
		{"icmp", flow(tuple.ICMP, "10.0.0.5", "10.0.0.6", 77, 8<<8, 0), "-A -t 118 -u UNSET -s 10.0.0.5 -d 10.0.0.6 -r 10.0.0.6 -q 10.0.0.5 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77"},
		{"gre", flow(tuple.GRE, "10.0.0.5", "10.0.0.6", 1, 2, 0), "-A -t 118 -u UNSET -s 10.0.0.5 -d 10.0.0.6 -r 10.0.0.6 -q 10.0.0.5 -p gre --srckey 1 --dstkey 2 --reply-key-src 2 --reply-key-dst 1"},
		{"a protocol without a name", flow(99, "10.0.0.5", "10.0.0.6", 0, 0, 0), "-A -t 118 -u UNSET -s 10.0.0.5 -d 10.0.0.6 -r 10.0.0.6 -q 10.0.0.5 -p 99"},
	} {
		if got := string(AppendSave(nil, &tt.f)); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestAppendXML(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    conntrack.Flow
		want string
	}{
		{"gre", flow(tuple.GRE, "10.0.0.5", "10.0.0.6", 1, 2, 0), `<flow><meta direction="original"><layer3 protonum="2" protoname="ipv4"><src>10.0.0.5</src><dst>10.0.0.6</dst></layer3><layer4 protonum="47" protoname="gre"><srckey>0x1</srckey><dstkey>0x2</dstkey></layer4></meta><meta direction="reply"><layer3 protonum="2" protoname="ipv4"><src>10.0.0.6</src><dst>10.0.0.5</dst></layer3><layer4 protonum="47" protoname="gre"><srckey>0x2</srckey><dstkey>0x1</dstkey></layer4></meta><meta direction="independent"><timeout>118</timeout><mark>0</mark><use>1</use><id>1833834788</id><unreplied/></meta></flow>`},
		{"zone of one direction", halfZoned, `<flow><meta direction="original"><layer3 protonum="2" protoname="ipv4"><src>10.0.0.5</src><dst>10.0.0.6</dst></layer3><layer4 protonum="17" protoname="udp"><sport>40001</sport><dport>53</dport></layer4><zone>3</zone></meta><meta direction="reply"><layer3 protonum="2" protoname="ipv4"><src>10.0.0.6</src><dst>10.0.0.5</dst></layer3><layer4 protonum="17" protoname="udp"><sport>53</sport><dport>40001</dport></layer4></meta><meta direction="independent"><timeout>118</timeout><mark>0</mark><use>1</use><id>1833834788</id><unreplied/></meta></flow>`},
	} {
		if got := string(AppendXML(nil, &tt.f, Options{})); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}
