// Command probe is the program in the payload of the launcher's tests. It
// checks that the payload it runs from is whole and tells how it was started.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "do-nothing" {
		return
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err == nil {
		err = check(filepath.Dir(filepath.Dir(exe)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "broken payload:", err)
		os.Exit(99)
	}
	err = json.NewEncoder(os.Stdout).Encode(map[string]any{"exe": exe, "argv": os.Args, "environ": os.Environ()})
	if err != nil {
		os.Exit(98)
	}
	if len(os.Args) == 3 && os.Args[1] == "server" {
		os.Exit(child(os.Args[2]))
	}
	if len(os.Args) > 1 && os.Args[1] == "exit-with-7" {
		os.Exit(7)
	}
}

// check compares all files with the list of their checksums.
func check(root string) error {
	sums, err := os.Open(filepath.Join(root, "SUMS"))
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(sums)
	for lines.Scan() {
		want, name, _ := strings.Cut(lines.Text(), " ")
		f, err := os.Open(filepath.Join(root, name))
		if err != nil {
			return err
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, f); err != nil {
			return err
		}
		if hex.EncodeToString(hash.Sum(nil)) != want {
			return fmt.Errorf("%s differs", name)
		}
	}
	return lines.Err()
}
