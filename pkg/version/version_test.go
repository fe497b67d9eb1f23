package version

import "testing"

func TestNewer(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"v1.36.3+kedge2", "v1.36.3+kedge1", true},
		{"v1.36.3+kedge1", "v1.36.3+kedge1", false},
		{"v1.36.10+kedge1", "v1.36.9+kedge3", true},
		{"v1.37.0+kedge1", "v1.36.3+kedge1", true},
		{"v1.35.9+kedge1", "v1.36.3+kedge1", false},
		{"v2.0.0+kedge1", "v1.36.3+kedge1", true},
		{"nonsense", "v1.36.3+kedge1", false},
		{"v1.37.0", "v1.36.3+kedge1", false},
	} {
		if got := Newer(tc.a, tc.b); got != tc.want {
			t.Errorf("Newer(%s, %s) = %v", tc.a, tc.b, got)
		}
	}
}

func TestSkips(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"v1.36.3+kedge1", "v1.36.4+kedge1", false},
		{"v1.36.3+kedge1", "v1.37.0+kedge1", false},
		{"v1.36.3+kedge1", "v1.38.0+kedge1", true},
		{"v1.36.3+kedge1", "v2.36.3+kedge1", true},
		{"nonsense", "v1.38.0+kedge1", false},
	} {
		if got := Skips(tc.a, tc.b); got != tc.want {
			t.Errorf("Skips(%s, %s) = %v", tc.a, tc.b, got)
		}
	}
}

func TestMinorsBehind(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"v1.35.9+kedge1", "v1.37.0+kedge1", 2},
		{"v1.37.0+kedge1", "v1.37.5+kedge2", 0},
		{"v1.37.0+kedge1", "v1.36.5+kedge2", 0},
		{"v1.37.0", "v1.39.0+kedge1", 0},
	} {
		if got := MinorsBehind(test.a, test.b); got != test.want {
			t.Errorf("%s is %d behind %s, want %d", test.a, got, test.b, test.want)
		}
	}
}

func TestValid(t *testing.T) {
	for v, want := range map[string]bool{"v1.36.3+kedge1": true, "1.36.3+kedge1": false, "v1.36.3": false, "v1.36.3+k3s1": false, "": false} {
		if Valid(v) != want {
			t.Errorf("%q: %v", v, !want)
		}
	}
}
