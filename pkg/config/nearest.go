package config

import "strings"

// Nearest returns the candidate that name is most likely a misspelling of, the
// first of equals, or "" when none is near. Case, and the difference between
// "_" and "-", do not count.
func Nearest(name string, candidates []string) string {
	folded := fold(name)
	limit := min(1+len(folded)/4, len(folded)-1)
	nearest := ""
	for _, c := range candidates {
		if d := distance(folded, fold(c)); d <= limit {
			nearest, limit = c, d-1
		}
	}
	return nearest
}

func fold(s string) []rune {
	return []rune(strings.ToLower(strings.ReplaceAll(s, "_", "-")))
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b (optimal string alignment).
func distance(a, b []rune) int {
	var before, above []int // the last two rows
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row = above, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := above[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(above[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// didYouMean returns the end of an error message: the nearest right name, or
// else the given advice.
func didYouMean(name string, candidates []string, advice string) string {
	if n := Nearest(name, candidates); n != "" {
		return `did you mean "` + n + `"?`
	}
	return advice
}
