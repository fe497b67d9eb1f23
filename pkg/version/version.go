// Package version says which Kedge this is. The build stamps it.
package version

import (
	"fmt"
	"strconv"
	"strings"
)

// Set by the build with -ldflags -X.
var (
	Version   = "v0.0.0-unstamped" // Kubernetes' version, +kedge, Kedge's release of it
	Commit    = "unknown"
	TreeState = "clean" // or dirty: built with uncommitted changes
)

// String is what --version prints, such as "v1.36.3+kedge1 (1a2b3c4d)".
func String() string {
	detail := Commit
	if TreeState != "clean" {
		detail += ", " + TreeState
	}
	return fmt.Sprintf("%s (%s)", Version, detail)
}

// ImageTag is Version as the tag of the packaged images: + is not allowed there.
func ImageTag() string { return strings.ReplaceAll(Version, "+", "-") }

// Newer says whether version a is newer than b, by number of Kubernetes'
// version and then of Kedge's release. What it can't read is not newer.
func Newer(a, b string) bool {
	left, okA := parse(a)
	right, okB := parse(b)
	if !okA || !okB {
		return false
	}
	for i := range left {
		if left[i] != right[i] {
			return left[i] > right[i]
		}
	}
	return false
}

// NewerMinor says whether version a is of a newer minor release than b, 1.37 of
// 1.36 for example. What it can't read is not newer.
func NewerMinor(a, b string) bool {
	left, okA := parse(a)
	right, okB := parse(b)
	if !okA || !okB {
		return false
	}
	return left[0] > right[0] || left[0] == right[0] && left[1] > right[1]
}

// parse reads v1.36.3+kedge1 as 1, 36, 3, 1.
func parse(v string) (numbers [4]int, ok bool) {
	core, release, found := strings.Cut(strings.TrimPrefix(v, "v"), "+kedge")
	parts := strings.Split(core, ".")
	if !found || len(parts) != 3 {
		return numbers, false
	}
	for i, part := range append(parts, release) {
		n, err := strconv.Atoi(part)
		if err != nil {
			return numbers, false
		}
		numbers[i] = n
	}
	return numbers, true
}

// Skips says whether version b leaves out a minor release after a, or begins
// another major one. What it can't read skips nothing.
func Skips(a, b string) bool {
	left, okA := parse(a)
	right, okB := parse(b)
	if !okA || !okB {
		return false
	}
	return right[0] != left[0] || right[1] > left[1]+1
}

// MinorsBehind says how many minor releases version a is behind b: 2 for 1.35 and
// 1.37. It is 0 for what is not behind, and for what it can't read.
func MinorsBehind(a, b string) int {
	left, okA := parse(a)
	right, okB := parse(b)
	if !okA || !okB || left[0] != right[0] {
		return 0
	}
	return max(right[1]-left[1], 0)
}

// Valid says whether v is a version of Kedge.
func Valid(v string) bool {
	_, ok := parse(v)
	return ok && strings.HasPrefix(v, "v")
}
