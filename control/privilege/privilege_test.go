package privilege

import (
	"errors"
	"strings"
	"testing"
)

func TestKernelVersion(t *testing.T) {
	for _, tt := range []struct {
		claim, release string
		want           error
	}{
		{"the first kernel with TCX will do", "6.6.0", nil},
		{"a later minor will do", "6.18.44-fc", nil},
		{"a later major will do", "7.0-rc1", nil},
		{"the last without TCX will not", "6.5.13", ErrKernel},
		{"an older major will not, whatever its minor", "5.15.0-generic", ErrKernel},
	} {
		if got := checkRelease(tt.release); !errors.Is(got, tt.want) {
			t.Errorf("%s: %s gives %v, want %v", tt.claim, tt.release, got, tt.want)
		}
	}
}

func TestKernelMessageNamesBothVersions(t *testing.T) {
	got := checkRelease("5.15.0").Error()
	for _, want := range []string{"5.15.0", "6.6"} {
		if !strings.Contains(got, want) {
			t.Errorf("message %q does not name %s", got, want)
		}
	}
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	all := []Capability{NetAdmin, NetRaw, BPF}
	for _, tt := range []struct {
		claim string
		have  set
		want  string
	}{
		{"all there", 1<<NetAdmin | 1<<NetRaw | 1<<BPF, ""},
		{"CAP_SYS_ADMIN stands for CAP_BPF", 1<<NetAdmin | 1<<NetRaw | 1<<SysAdmin, ""},
		{"one missing", 1<<NetAdmin | 1<<BPF, "CAP_NET_RAW;"},
		{"none there", 0, "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF;"},
	} {
		err := check(tt.have, all)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want it to name %q", tt.claim, err, tt.want)
		}
	}
}

func TestDropKeepsOnlyWhatIsAskedAndThere(t *testing.T) {
	for _, tt := range []struct {
		claim string
		have  set
		keep  []Capability
		want  set
	}{
		{"the rest goes", 1<<NetAdmin | 1<<SysAdmin | 1<<BPF, []Capability{NetAdmin, BPF}, 1<<NetAdmin | 1<<BPF},
		{"nothing is gained", 1 << NetAdmin, []Capability{NetAdmin, NetRaw}, 1 << NetAdmin},
		{"CAP_SYS_ADMIN stays where it stands for CAP_BPF", 1 << SysAdmin, []Capability{BPF}, 1 << SysAdmin},
	} {
		if got := tt.have.only(tt.keep); got != tt.want {
			t.Errorf("%s: %x of %x is %x, want %x", tt.claim, tt.keep, tt.have, got, tt.want)
		}
	}
}
