package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// imports is the house: which packages of ours each package may import. A new
// line here is a decision about the structure, not a detail.
var imports = map[string][]string{
	"agent":              {"aggregator", "configs", "forwarder", "listeners", "listeners/origin", "spool"},
	"agent/bench":        {"aggregator", "forwarder/fluxtest", "spool"}, // a command of its own, no part of the daemon
	"listeners":          {"aggregator"},
	"listeners/origin":   {"aggregator"},
	"forwarder":          {"aggregator", "spool"},
	"forwarder/fluxtest": {},
	"aggregator":         {},
	"spool":              {},
	"configs":            {},
}

// testImports may be imported by the tests of any package beside those.
var testImports = []string{"forwarder/fluxtest"}

// homes are modules that one package alone may import, so that replacing one
// is a change in one place; JSON is read in listeners and written in forwarder. The
// benchmark, no part of the daemon, is free.
var homes = map[string][]string{
	"github.com/DataDog/sketches-go": {"aggregator"},
	"github.com/axiomhq/hyperloglog": {"aggregator"},
	"go.etcd.io/bbolt":               {"spool"},
	"gopkg.in/yaml.v3":               {"configs"},
	"github.com/cenkalti/backoff/v4": {"forwarder"},
	"github.com/go-faster/jx":        {"forwarder", "listeners", "listeners/origin"},
	"github.com/fsnotify/fsnotify":   {"agent"},
	"github.com/spf13/cobra":         {"agent"},
	"github.com/coreos/go-systemd":   {"agent"},
	"golang.org/x/crypto":            {"agent"},
	"golang.org/x/sys":               {"listeners"},
}

// otherModule tells whether a folder is the root of another module.
func otherModule(path string) bool {
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	return err == nil
}

// TestImports holds the import table against the code.
func TestImports(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel("..", path)
		if d.IsDir() && rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || otherModule(path)) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		pkg := filepath.ToSlash(filepath.Dir(rel))
		allowed, ok := imports[pkg]
		if !ok {
			t.Errorf("%s: package %s is not in the import table", rel, pkg)
			return nil
		}
		seen[pkg] = true
		if strings.HasSuffix(path, "_test.go") {
			allowed = append(slices.Clone(allowed), testImports...)
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			if ours, ok := strings.CutPrefix(name, "sluice/"); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s; %s may import %v", rel, name, pkg, allowed)
			}
			for module, home := range homes {
				if (name == module || strings.HasPrefix(name, module+"/")) && !slices.Contains(home, pkg) && pkg != "agent/bench" {
					t.Errorf("%s imports %s, which only %v may", rel, name, home)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range imports {
		if !seen[pkg] {
			t.Errorf("package %s is in the import table, but has no Go file", pkg)
		}
	}
}
