// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// TestQuote: a shell makes of the line the words that it was made of.
func TestQuote(t *testing.T) {
	for _, words := range [][]string{{"a"}, {"a b", "", "it's", "$HOME `x` \\ \"", "*", "a\nb", "-n"}} {
		out, err := exec.Command("sh", "-c", "printf '%s\\0' "+quote(words)).Output()
		if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); err != nil || strings.Join(got, "|") != strings.Join(words, "|") {
			t.Errorf("%q: %q, %v", words, got, err)
		}
	}
}

// TestEscape: Enter ~ . ends what is typed, however it is cut, and nothing else does.
func TestEscape(t *testing.T) {
	for text, ends := range map[string]bool{"~.": true, "ls\r~.": true, "ls\n~.x": true, "ls~.": false, "\r~x.": false, "~ .": false, "a.~": false} {
		for name, in := range map[string]io.Reader{"whole": strings.NewReader(text), "bytes": iotest.OneByteReader(strings.NewReader(text))} {
			_, err := io.Copy(io.Discard, &escape{Reader: in})
			if errors.Is(err, errEscaped) != ends {
				t.Errorf("%q, %s: %v", text, name, err)
			}
		}
	}
}

func TestParsePlace(t *testing.T) {
	for text, want := range map[string]place{
		"ses_a:b/c": {"ses_a", "b/c"}, "ses_a:": {"ses_a", ""}, "./a:b": {"", "./a:b"}, "/a:b": {"", "/a:b"}, "a": {"", "a"}, "-": {"", "-"}, ":a": {"", ":a"},
	} {
		if got := parsePlace(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestTexts(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{span(90 * time.Second), "1m30s"},
		{span(25*time.Hour + time.Minute), "1d1h"},
		{span(-time.Second), "0s"},
		{size(999), "999 B"},
		{size(1_500_000), "1.5 MB"},
		{size(4_000_000_000), "4.0 GB"},
		{metadataText([]byte(`{"b":1,"a":"x y","c":{"d":null}}`)), `a=x y b=1 c={"d":null}`},
		{metadataText([]byte(`[]`)), ""},
		{short("abcdef", 4), "abc…"},
	} {
		if c.got != c.want {
			t.Errorf("%s, want %s", c.got, c.want)
		}
	}
	for text, want := range map[string]int{"90": 90, "2m": 120, "1h30m": 5400, "0": 0, "x": 0, "-1m": 0, "10ms": 0} {
		if got, err := seconds(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	if p, err := preview("https://ses-a.example.com:8443", 3000); p != "https://3000-ses-a.example.com:8443" || err != nil {
		t.Errorf("%s, %v", p, err)
	}
	if _, err := preview("javascript:alert(1)", 0); err == nil {
		t.Error("a browser is told to run code")
	}
}
