//go:build netns

package e2e

import "strings"

// conntrackLines are command lines that the real conntrack(8) and ours answer alike
// about the same traffic. Left out are those that the real one gets wrong: -F -f ends
// the flows of both families, -g finds pings that are not translated there, -u UNSET, -u SRC_NAT and
// -G by the reply tuple are invalid parameters, -G -o xml is not closed, --state of SCTP
// with an unknown state is its end, SCTP's states in XML are those of TCP, -U in a file
// loses the mark, -U of IPv4 flows is not supported without a family or an address, and
// not with -n, and of some flows that it changes prints one, numbers with anything but digits in them are 0, DCCP is not tracked by
// Linux 6.18.
var conntrackLines = words(`
	-L
	-L conntrack
	-L conn
	--dump
	--dump=expect
	-Lexp
	-L -- -x
	-L -o extended
	-L -o id
	-L -o extended,id
	-L -oextended
	-L -o ktimestamp
	-L -o timestamp
	-L -o labels
	-L -o userspace
	-L -f ipv4
	-L -f ipv6
	-L --family=ipv6
	-L expect
	-L exp -f ipv6
	-L expect -o xml
	-L expect -o save
	-L dying
	-L dying -o xml
	-L unconfirmed
	-L dying --mask-src 255.0.0.0
	-L -p tcp
	-L -p 17
	-L -p icmp
	-L -p icmpv6
	-L -p tcp --dport 80
	-L -p tcp --sport 40001 --dport 80
	-L -p tcp --orig-port-dst 80
	-L -p tcp --reply-port-src 80
	-L -p tcp --reply-port-dst 40001
	-L -p tcp --state ESTABLISHED
	-L -p tcp --state SYN_SENT
	-L -p tcp --state LISTEN
	-L -p sctp --state CLOSED
	-L -p gre --srckey 1
	-L -p gre --dstkey 1 --reply-key-src 1 --reply-key-dst 1
	-L -p icmp --icmp-type 8
	-L -p icmp --icmp-id 77
	-L -p icmp --icmp-id 78
	-L -p icmp --icmp-type 0 --icmp-code 0
	-L -p icmpv6 --icmpv6-type 128
	-L -s 10.1.0.11
	-L -s 10.1.0.0/24
	-L -s 10.9.0.0/16
	-L -d 198.51.100.9
	-L -d 0.0.0.0/0
	-L -s fd00:1::/64
	-L -s 10.9.0.11 --mask-src 255.0.255.255
	-L -s 10.9.0.11 --mask-src 255.255.0.0
	-L -d 198.51.100.8 --mask-dst 255.255.255.0
	-L -d 2001:db8:b::9
	-L -r 198.51.100.9
	-L -q 203.0.113.1
	-L -q 203.0.113.9
	-L -s 10.1.0.11 -p udp --dport 53
	-L -m 21
	-L -m 0
	-L -m 1/1
	-L -m 0x15/0xff
	-L -m 2/2
	-L -c 5
	-L -c 1/2
	-L -u ASSURED
	-L -u assured
	-L -u UNREPLIED
	-L -u SEEN_REPLY
	-L -u SEEN_REPLY,ASSURED
	-L -n
	-L -j
	-L -n 203.0.113.1
	-L -n 203.0.113.2
	-L -g 10.1.0.11
	-L -g 10.1.0.11:80
	-L -g 10.1.0.11:81
	-L -j 10.1.0.11
	-L -w 0
	-L -w 3
	-L --orig-zone 0
	-L --orig-zone 7
	-L --reply-zone 7
	-C
	-C expect
	-V
	-L -o xml
	-L --out xml
	-L -p icmp -o xml
	-L -p tcp -o xml
	-L -p sctp -o xml
	-L -o xml,ktimestamp
	-L -o xml,extended,id
	-L -o save
	-L -p udp -o save
	-L -o save,id
	-L -o save -o xml
	-L -a 1.2.3.4 -p icmp
	-U -s 10.9.9.9 -m 3
	-D -s 10.9.9.9
	-D -i 5
	-U expect
	-U -z
	-U -w 3
	-G -p udp -s 10.1.0.11 -d 198.51.100.9 --sport 40002 --dport 53
	-G -p tcp -s 10.1.0.11 -d 198.51.100.9 --sport 40001 --dport 80 -o extended
	-G -p icmp -s 10.1.0.11 -d 198.51.100.9 --icmp-type 8 --icmp-code 0 --icmp-id 77
	-G -p udp -s 10.1.0.11 -d 198.51.100.9 --sport 1 --dport 53
	-G -p icmp -s 1.1.1.1 -d 1.1.1.2 --icmp-type 8 --icmp-code 0
	-G -p sctp -s 1.1.1.1 -d 1.1.1.2 --sport 1 --dport 1 --orig-vtag 1
	-G expect -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 1 --reply-port-src 1 --reply-port-dst 1
	-G expect -p icmp -s 10.0.0.1 -d 10.0.0.2
	-D expect -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 1 --reply-port-src 1 --reply-port-dst 1
	-I expect -p tcp -s 10.0.0.1 -d 10.0.0.2 -t 90 --tuple-src 10.0.0.2 --tuple-dst 10.0.0.1 --mask-src 255.255.255.0 --mask-dst 255.255.255.255 --sport 1 --dport 1 --tuple-port-src 1 --tuple-port-dst 1 --mask-port-src 1 --mask-port-dst 1
`)

// conntrackMistakes are command lines that are refused.
var conntrackMistakes = words(`
	-L -L
	-L -D
	-D -C
	-V -L
	-L -h
	-L foo
	-V foo
	-h foo
	-D dying
	-E unc
	-F dying
	-S dying
	-I dying
	-A expect
	-L -s
	-s
	-z
	-p tcp
	-L --foo
	--foo
	-L -y
	-L --s 10.1.0.11
	-L --mas 1
	-R
	-R /nonexistent
	-L -R x
	-L -o
	-L -p foo
	-L -p 300
	-L -f ipx
	-F -f foo
	-L -u FOO
	-L -o foo
	-L -s 1.2.3.4/33
	-L -s 1.2.3.4/a
	-L -s foo
	-L -s 1.2.3.4 -d ::1
	-L -s 1.2.3.4 -f ipv6
	-L -r 1.2.3.0/24
	-E -t 5
	-E -e FOO
	-E -o save,xml
	-E expect -e NEW
	-L expect -p tcp
	-G
	-G -p tcp
	-G -p tcp -s 1.2.3.4
	-G -p tcp -r 1.2.3.4
	-G -p udp -s 10.1.0.0/24 -d 198.51.100.9 --sport 1 --dport 2
	-G -p tcp -s 1.1.1.1 -d 2.2.2.2
	-G -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 1
	-G -p icmp -s 1.1.1.1 -d 2.2.2.2
	-G -p icmp -s 1.1.1.1 -d 2.2.2.2 --icmp-type 8
	-G -p gre -s 1.1.1.1 -d 2.2.2.2
	-G -p udp -r 1.1.1.1 -q 2.2.2.2 --reply-port-src 1
	-G -p icmpv6 -s ::1 -d ::2
	-G -p dccp -s 1.1.1.1 -d 1.1.1.2 --sport 1 --dport 1 --role client
	-G expect -p tcp -s 10.0.0.1 -d 10.0.0.2
	-G expect -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 1
	-G expect -p gre -s 10.0.0.1 -d 10.0.0.2 --srckey 1 --dstkey 1
	-L -n 1.2.3.4:
	-L -n [::1
	-L -n []:5
	-L -n :80
	-L -n 1.2.3.4:99999
	-L -n 1.2.3.4:x
	-L -j -n
	-L --state FOO
	-L -p tcp --state FOO
	-L -p udp --state NONE
	-L -p tcp --icmp-type 1
	-L -p tcp --tuple-port-src 1
	-L -p tcp --mask-port-dst 1
	-L -p gre --tuple-key-src 1
	-L -p sctp --orig-vtag 1
	-D -p sctp --orig-vtag 5
	-L -p dccp --role client
	-L -p dccp --state FOO
	-L --sport 5
	-L -z -m 7
	-L -z -p tcp --dport 1
	-L --mask-src 255.0.0.0
	-D expect -s 1.2.3.4
	-I expect -s 1.2.3.4
	-I expect -p icmp -t 1 -s 10.0.0.1 -d 10.0.0.2 --tuple-src 10.0.0.2 --tuple-dst 10.0.0.1 --mask-src 255.255.255.0 --mask-dst 255.255.255.255 --icmp-type 1
	-I expect -p sctp -t 1 -s 10.0.0.1 -d 10.0.0.2 --tuple-src 10.0.0.2 --tuple-dst 10.0.0.1 --mask-src 255.255.255.0 --mask-dst 255.255.255.255 --sport 1 --dport 1 --mask-port-src 1 --mask-port-dst 1
	-I expect -p dccp -t 1 -s 10.0.0.1 -d 10.0.0.2 --tuple-src 10.0.0.2 --tuple-dst 10.0.0.1 --mask-src 255.255.255.0 --mask-dst 255.255.255.255 --sport 1 --dport 1 --mask-port-src 1 --mask-port-dst 1
	-I expect -p gre -t 1 -s 10.0.0.1 -d 10.0.0.2 --tuple-src 10.0.0.2 --tuple-dst 10.0.0.1 --mask-src 255.255.255.0 --mask-dst 255.255.255.255 --srckey 1
	-I -t 5
	-I -p udp -t 5 -s 1.1.1.1
	-I -p udp -t 5 -r 1.1.1.1
	-I -p udp -t 5 -s 1.1.1.1 -d 2.2.2.2
	-I -p udp -t 5 -s 1.1.1.1 -d 2.2.2.2 --sport 1
	-I -p tcp -t 5 -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2
	-I -p icmp -t 5 -s 1.1.1.1 -d 2.2.2.2 --icmp-type 8
	-I -p gre -t 5 -s 1.1.1.1 -d 2.2.2.2
	-I -p sctp -t 5 -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2
	-I -p sctp -t 5 -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2 --state ESTABLISHED --orig-vtag 1
	-I -p dccp -t 5 -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2 --state OPEN
	-I -p dccp -t 5 -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2 --state OPEN --role foo
	-I -p udp -s 10.0.0.1/24 -d 198.51.100.2 --sport 222 --dport 2 -t 5
	-I -p udp -s 10.0.0.1 -d ::1 --sport 222 --dport 2 -t 5
	-L -l x
	-U --label-add x
	-U --label-add
	-U --label-add x --label-del
`)

// legality is every kind of option with every command that does nothing because of it,
// or is refused.
func legality() (all []string) {
	options := words(`
		-s 10.9.9.9
		-d 10.9.9.9
		-r 10.9.9.9
		-q 10.9.9.9
		-p 99
		-t 5
		-u OFFLOAD
		-z
		-e NEW
		--tuple-src 1.1.1.1
		--tuple-dst 1.1.1.2
		--mask-src 255.0.0.0
		--mask-dst 255.0.0.0
		-i 5
		-f ipv6
		-n 10.9.9.9
		-o id
		-c 5
		-b 5
		-w 9
		-l x
		--label-add x
		--label-del x
		--orig-zone 3
		--reply-zone 3
	`)
	for _, command := range []string{"-L", "-L expect", "-L dying", "-D expect", "-G", "-G expect", "-I", "-I expect", "-A", "-C", "-C expect", "-S", "-S expect", "-F expect"} {
		for _, option := range options {
			all = append(all, command+" "+option)
		}
	}
	for _, option := range options {
		if !strings.HasPrefix(option, "-f") {
			all = append(all, "-F "+option)
		}
	}
	return all
}

// conntrackChanges are command lines that make and end flows, in their order.
var conntrackChanges = words(`
	-I -p tcp -s 10.1.0.50 -d 198.51.100.2 --sport 1 --dport 2 -t 100 --state ESTABLISHED
	-I -p tcp -s 10.1.0.50 -d 198.51.100.2 --sport 1 --dport 2 -t 100 --state ESTABLISHED
	-A -p tcp -s 10.1.0.50 -d 198.51.100.2 --sport 1 --dport 2 -t 100 --state ESTABLISHED
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 1 --dport 2 -t 100 -n 203.0.113.1
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 2 --dport 2 -t 100 -n 203.0.113.1:5000
	-I -p udp -s 10.1.0.51 -d 198.51.100.2 --sport 2 --dport 2 -t 100 -n 203.0.113.1:5000
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 3 --dport 2 -t 100 -g 10.1.0.12:5000
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 4 --dport 2 -t 100 -n 203.0.113.1:6000 -g 10.1.0.12:7000
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 6 --dport 2 -t 100 -u SEEN_REPLY,ASSURED -m 7 -w 3
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 6 --dport 2 -t 100 --orig-zone 4
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 6 --dport 2 -t 100 --reply-zone 5
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 6 --dport 2 -t 100 --reply-zone 5 -w 3
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 7 --dport 2 -t 100 -u FIXED_TIMEOUT
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 8 --dport 2 -t 100 -u UNSET
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 9 --dport 2 -t 100 -u EXPECTED
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 19 --dport 2 -t 100 -u OFFLOAD
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 20 --dport 2 -t 0
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 21 --dport 2 -t 100 -u UNREPLIED
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 23 --dport 2 -t 100 -a 4
	-I -p icmp -s 10.1.0.50 -d 198.51.100.2 -t 100 --icmp-type 8 --icmp-code 0 --icmp-id 5
	-I -p icmp -s 10.1.0.50 -d 198.51.100.2 -t 100 --icmp-type 8 --icmp-code 0
	-I -p icmp -s 10.1.0.51 -d 198.51.100.2 -t 100 --icmp-type 8 --icmp-code 0 --icmp-id 6 -n 203.0.113.1
	-I -p icmp -s 10.1.0.50 -d 198.51.100.2 -t 100 --icmp-type 3 --icmp-code 0
	-I -p gre -s 10.1.0.50 -d 198.51.100.2 -t 100 --srckey 1 --dstkey 2
	-I -p udplite -s 10.1.0.50 -d 198.51.100.2 -t 100 --sport 1 --dport 2
	-I -p 99 -s 10.1.0.50 -d 198.51.100.2 -t 100
	-I -p udp -r 10.1.0.50 -q 198.51.100.2 --reply-port-src 5 --reply-port-dst 6 -t 100
	-I -p udp -s 2001:db8::1 -d 2001:db8:1::2 --sport 5 --dport 6 -t 100
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 24 --dport 2 -t 100 -n
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 25 --dport 2 -t 100 -r 198.51.100.2 -q 10.1.0.50
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 26 --dport 2 -t 100 -r 198.51.100.2 -q 10.1.0.50 --reply-port-src 2 --reply-port-dst 26
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 26 --dport 3 -t 100 -r 198.51.100.2 -q 10.1.0.50 --reply-port-src 2 --reply-port-dst 26
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 27 --dport 2 -t 100 --reply-port-src 5 --reply-port-dst 6
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 28 --dport 2 -t 100 -r 1.2.3.4
	-I -p udp -s 10.1.0.50 -d 198.51.100.2 --sport 29 --dport 2 -t 100 -m 5/7
	-I -p tcp -s 10.1.0.50 -d 198.51.100.2 --sport 2 --dport 7 -t 100 --state LISTEN
	-I -p tcp -s 10.1.0.50 -d 198.51.100.2 --sport 3 --dport 7 -t 100 --state NONE
	-I -p tcp -s 10.1.0.50 -d 198.51.100.2 --sport 4 --dport 7 -t 100 --state FIN_WAIT -u SRC_NAT
	-A -t 100 -u UNSET -s 10.1.0.52 -d 198.51.100.2 -g 10.1.0.12 -q 10.1.0.52 -p udp --sport 3 --dport 2 --reply-port-src 5001 --reply-port-dst 3
	-A -t 100 -u UNSET -s 10.1.0.52 -d 198.51.100.2 -r 198.51.100.2 -n 203.0.113.1 -p udp --sport 2 --dport 2 --reply-port-src 2 --reply-port-dst 5002
	-L
	-L -o save
	-L -o xml
	-I -p sctp -s 10.1.0.50 -d 198.51.100.2 -t 100 --sport 1 --dport 2 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2
	-L -p sctp
	-L -p sctp -o save
	-D -p sctp
	-D -u FIXED_TIMEOUT
	-D -w 3
	-D -p gre
	-D -n 203.0.113.1:5000
	-D -s 10.1.0.50 -p icmp -o save
	-L -z
	-L -z -o id
	-L -z -f ipv6
	-D -p udp --dport 99
	-D -p udp --dport 53 -f ipv4
	-D -p tcp --state ESTABLISHED -s 10.1.0.11
	-L
	-D -p icmp -o extended
	-D -p tcp -o xml
	-D -m 21
	-D
	-L
	-L -o xml
	-D
	-F
	-F expect
`)

// connlabels are names of labels. Lines that have no name are passed over.
const connlabels = `# bits and names
0	zero
5 voip
0x7 hex
63	before
64 word
127 last
200 outside
9 nine words
11
`

// conntrackUpdates are command lines that make flows, change their labels and what else
// can be changed, and find them by labels, in their order.
var conntrackUpdates = words(`
	-I -p udp -s 10.1.0.60 -d 198.51.100.2 --sport 1 --dport 2 -t 100
	-I -p udp -s 10.1.0.60 -d 198.51.100.2 --sport 2 --dport 2 -t 100 --label-add voip
	-I -p udp -s 10.1.0.60 -d 198.51.100.2 --sport 3 --dport 2 -t 100 --label-add zero,last -n 203.0.113.1
	-I -p tcp -s 10.1.0.60 -d 198.51.100.2 --sport 4 --dport 2 -t 100 --state ESTABLISHED -u SEEN_REPLY,ASSURED
	-I -p udp -s 2001:db8::1 -d 2001:db8:1::2 --sport 5 --dport 6 -t 100 --label-add word
	-I -p udp -s 10.1.0.60 -d 198.51.100.2 --sport 6 --dport 2 -t 100 -l voip
	-I -p udp -s 10.1.0.60 -d 198.51.100.2 --sport 7 --dport 2 -t 100 --label-add nope
	-L -o labels
	-L -o labels,id
	-L -o labels,extended
	-L -o xml,labels
	-L -o save,labels
	-L -l voip
	-L -l voip -o labels
	-L -l zero,last -o labels
	-L -l zero,voip
	-L -l hex
	-L -l nope
	-L -l nine
	-L -l 5
	-L -l voip,
	-L -l VOIP
	-U -f ipv4 -p udp --sport 1 --label-add voip
	-U -f ipv4 -p udp --sport 1 --label-add voip -o labels
	-U -f ipv4 -p udp --sport 1 --label-add hex,before,word -o labels
	-U -f ipv4 -p udp --sport 1 --label-del before -o labels
	-U -f ipv4 -p udp --sport 1 --label-del before
	-U -f ipv4 -p udp --sport 1 --label-del before,hex -o labels
	-U -f ipv4 -p udp --sport 2 -l voip --label-add zero -o xml,labels
	-U -f ipv4 -p udp --sport 2 -l hex --label-add zero
	-U -f ipv4 -p udp --sport 3 --label-del -o labels
	-U -f ipv4 -p udp --sport 3 --label-del
	-U -f ipv4 -p udp --sport 3 --label-add nope
	-U -f ipv4 -p udp --sport 3 --label-add voip --label-add hex
	-U -f ipv4 -p udp --sport 3 -o labels -m 3
	-U -f ipv4 -p udp --sport 3 --label-del nope
	-U -f ipv4 -p tcp --label-add last -o labels,id
	-U -f ipv4 -p tcp --label-add last -m 5 -o labels
	-U -f ipv4 -p tcp -m 6
	-U -f ipv4 -p tcp -m 0x10/0xf0
	-U -f ipv4 -p tcp -m 6
	-U -f ipv4 -p tcp -t 300
	-U -f ipv4 -p tcp -t 200 -m 7 -o extended
	-U -f ipv4 -p tcp -o xml -m 8
	-U -f ipv4 -p tcp -o save -t 150
	-U -f ipv4 -p udp --sport 3 -m 9
	-U -f ipv4 -p udp --sport 3 -u ASSURED
	-U -f ipv4 -p udp --sport 3 -u SEEN_REPLY,ASSURED
	-U -f ipv4 -p udp --sport 3 -u ASSURED -t 90 -o id
	-U -f ipv6 -p udp --label-add voip -o labels
	-U -s 10.1.0.60 -p udp --sport 2 -l voip -m 12
	-U -s 10.1.0.60 -p udp --sport 2 -l voip -m 13 -o xml
	-U -s 10.1.0.60 -p udp --sport 2 -l voip -m 11 -o labels
	-L -o labels
	-L -o xml,labels
	-G -p udp -s 10.1.0.60 -d 198.51.100.2 --sport 2 --dport 2 -o labels
	-G -p udp -s 10.1.0.60 -d 198.51.100.2 --sport 2 --dport 2 -o labels -l voip
	-G -p udp -s 10.1.0.60 -d 198.51.100.2 --sport 2 --dport 2 -l hex
	-G -p udp -s 10.1.0.60 -d 198.51.100.2 --sport 2 --dport 2 -l voip
	-L -l voip -o xml
	-L -l voip -o save
	-L -l voip -z
	-L -l voip,hex -l word
	-D -f ipv6 -l voip
	-D -l hex
	-D -l voip -o labels
	-D -l last -o xml,labels
	-L -o labels
	-F
`)

// words are the lines of a text.
func words(text string) (lines []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}
