package main

import "testing"

func TestFileMapping(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-01a00000 r-xp 00000000 00:1d 1234                               /addons": true,
		"01a00000-04b00000 r--p 01600000 00:1d 1234                               /addons": true,
		"04b00000-04d00000 rw-p 04700000 00:1d 1234                               /addons": false,
		"c000000000-c000800000 rw-p 00000000 00:00 0":                                      false,
		"00400000-01a00000 r-xp 00000000 00:1d 1234                               /other":  false,
		"": false,
	} {
		from, to, ok := fileMapping(line, "/addons")
		if ok != want || (ok && from >= to) {
			t.Errorf("%q: got %x, %x, %t", line, from, to, ok)
		}
	}
	if from, to, _ := fileMapping("00400000-01a00000 r-xp 00000000 00:1d 1234 /addons", "/addons"); from != 0x400000 || to != 0x1a00000 {
		t.Errorf("got %x to %x", from, to)
	}
}
