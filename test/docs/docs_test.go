package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/test/docs"
)

// root is the directory of the repository.
const root = "../.."

var (
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	fence   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	code    = regexp.MustCompile("`[^`\n]*`")
	dropped = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// pages returns the text of all Markdown files, without fenced code, by their path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	all, err := docs.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	for page, text := range all {
		found[page] = fence.ReplaceAllString(text, "")
	}
	return found
}

// anchors returns the anchors of the headings of a page, as GitHub makes them.
func anchors(page string) []string {
	var found []string
	for _, match := range heading.FindAllStringSubmatch(page, -1) {
		text := dropped.ReplaceAllString(strings.ToLower(match[1]), "")
		found = append(found, strings.ReplaceAll(text, " ", "-"))
	}
	return found
}

// links returns the targets of the links of a page to other pages, files and headings.
func links(page string) []string {
	var found []string
	for _, match := range link.FindAllStringSubmatch(code.ReplaceAllString(page, "``"), -1) {
		if !strings.Contains(match[1], "://") {
			found = append(found, match[1])
		}
	}
	return found
}

// resolve returns the path of the target of a link from the root of the repository, and the
// anchor.
func resolve(page, target string) (path, anchor string) {
	path, anchor, _ = strings.Cut(target, "#")
	if path == "" {
		return page, anchor
	}
	return filepath.Join(filepath.Dir(page), path), anchor
}

func TestLinksResolve(t *testing.T) {
	all := pages(t)
	for page, text := range all {
		for _, target := range links(text) {
			path, anchor := resolve(page, target)
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s: the link %s leads nowhere", page, target)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(all[path]), anchor) {
				t.Errorf("%s: %s has no heading for the link %s", page, path, target)
			}
		}
	}
}

// TestPagesAreListed checks that the index of each directory of docs links to every page in it. A
// decision is listed once, with its number and title.
func TestPagesAreListed(t *testing.T) {
	all := pages(t)
	for _, dir := range []string{"docs", "docs/decisions"} {
		index := filepath.Join(dir, "README.md")
		listed := make(map[string]int)
		for _, target := range links(all[index]) {
			path, _ := resolve(index, target)
			listed[path]++
		}
		for page, text := range all {
			if filepath.Dir(page) != dir || page == index {
				continue
			}
			switch n := listed[page]; {
			case n == 0:
				t.Errorf("%s does not list %s", index, page)
			case dir == "docs/decisions" && n > 1:
				t.Errorf("%s lists %s %d times", index, page, n)
			}
			if dir != "docs/decisions" {
				continue
			}
			title := heading.FindStringSubmatch(text)[1]
			number, title, _ := strings.Cut(title, ". ")
			if line := "| " + number + " |"; !strings.Contains(all[index], line) || !strings.Contains(all[index], "["+title+"]") {
				t.Errorf("%s does not list %s as number %s with its title %q", index, page, number, title)
			}
		}
	}
}
