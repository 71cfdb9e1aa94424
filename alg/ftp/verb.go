package ftp

import (
	"bytes"

	"example.com/culvert/alg"
)

// word is a command, as far as the parser tells them apart.
type word uint8

const (
	notFTP  word = iota // no command can begin like this
	unknown             // letters, but no command that we know
	known
	verbPORT
	verbEPRT
	verbPASV
	verbEPSV
	verbAUTH
)

// verbs are the commands of RFC 959, RFC 2228, RFC 2389, RFC 2428, RFC 2640 and RFC 3659,
// and some that are older or not written down.
var verbs = map[string]word{
	"PORT": verbPORT, "EPRT": verbEPRT, "PASV": verbPASV, "EPSV": verbEPSV, "AUTH": verbAUTH,

	"ABOR": known, "ACCT": known, "ADAT": known, "ALLO": known, "APPE": known, "CCC": known, "CDUP": known,
	"CLNT": known, "CONF": known, "CWD": known, "DELE": known, "ENC": known, "FEAT": known, "HELP": known,
	"HOST": known, "LANG": known, "LIST": known, "MDTM": known, "MIC": known, "MKD": known, "MLSD": known,
	"MLST": known, "MODE": known, "NLST": known, "NOOP": known, "OPTS": known, "PASS": known, "PBSZ": known,
	"PROT": known, "PWD": known, "QUIT": known, "REIN": known, "REST": known, "RETR": known, "RMD": known,
	"RNFR": known, "RNTO": known, "SITE": known, "SIZE": known, "SMNT": known, "STAT": known, "STOR": known,
	"STOU": known, "STRU": known, "SYST": known, "TYPE": known, "USER": known, "XCUP": known, "XCWD": known,
	"XMKD": known, "XPWD": known, "XRMD": known,

	"GET": notFTP, "POST": notFTP, "PUT": notFTP, "HEAD": notFTP, // of HTTP
	"HELO": notFTP, "EHLO": notFTP, "MAIL": notFTP, "RCPT": notFTP, "DATA": notFTP, // of SMTP
}

// verbOf reads the word that a command begins with: three or four letters, then a
// space or the end (RFC 959 section 5.3.1).
func verbOf(line []byte) word {
	var v [4]byte
	n := bytes.IndexByte(line, ' ')
	if n < 0 {
		n = len(line)
	}
	if n < 3 || n > len(v) {
		return notFTP
	}
	for i, b := range line[:n] {
		if v[i] = b &^ 0x20; v[i] < 'A' || v[i] > 'Z' {
			return notFTP
		}
	}
	w, ok := verbs[string(v[:n])]
	if !ok {
		return unknown
	}
	return w
}

// isAll reports whether line is EPSV ALL (RFC 2428 section 4).
func isAll(line []byte) bool {
	return bytes.EqualFold(bytes.TrimSpace(line[len("EPSV"):]), []byte("ALL"))
}

// Telnet commands that clients send before ABOR (RFC 959 section 4.1.3, RFC 854).
const (
	telnetIAC  = 0xff
	telnetWill = 251 // this one and those after it have an option
)

// telnet steps over the Telnet commands that line begins with.
func telnet(line []byte) (skipped int, rest []byte) {
	for len(line) > skipped && line[skipped] == telnetIAC {
		n := 2
		if len(line) > skipped+1 && line[skipped+1] >= telnetWill && line[skipped+1] != telnetIAC {
			n = 3
		}
		skipped = min(skipped+n, len(line))
	}
	return skipped, line[skipped:]
}

// kind is what the reply to a command may be for us.
type kind uint8

const (
	askedNothing kind = iota
	askedOther
	askedPASV
	askedEPSV
	askedAUTH
)

func kindOf(w word, line []byte) kind {
	switch {
	case w == verbPASV:
		return askedPASV
	case w == verbEPSV && !isAll(line):
		return askedEPSV
	case w == verbAUTH:
		return askedAUTH
	}
	return askedOther
}

// queue is the commands that wait for their replies, in order.
type queue struct {
	Kinds   [64]kind
	Head, N uint8
}

// add reports whether there was room for k.
func (q *queue) add(k kind) bool {
	if int(q.N) == len(q.Kinds) {
		return false
	}
	q.Kinds[int(q.Head+q.N)%len(q.Kinds)] = k
	q.N++
	return true
}

// first is the command that is answered next.
func (q *queue) first() kind {
	if q.N == 0 {
		return askedNothing
	}
	return q.Kinds[q.Head]
}

// take ends the wait of the first command. A reply that nobody asked for (421) takes
// none.
func (q *queue) take() kind {
	k := q.first()
	if q.N > 0 {
		q.Head, q.N = (q.Head+1)%uint8(len(q.Kinds)), q.N-1
	}
	return k
}

// ending says how a line of a reply ends its code.
type ending uint8

const (
	noReply   ending = iota // it does not begin with one
	lastLine                // "227 ", or nothing more
	moreLines               // "227-"
)

// codeOf reads the three digits that a reply begins with (RFC 959 section 4.2).
func codeOf(line []byte) (code int, end ending) {
	code, digits := alg.Number(line, 3)
	switch {
	case digits < 3, code < 100 || code >= 700: // 6xx is of RFC 2228
		return 0, noReply
	case len(line) == 3 || line[3] == ' ':
		return code, lastLine
	case line[3] == '-':
		return code, moreLines
	}
	return 0, noReply
}
