// Command sbom writes what a program is made of, as the Go linker has noted it in the
// program itself, in the form CycloneDX 1.6 (cyclonedx.org, "Specification"):
//
//	go -C packaging/sbom run . VERSION PROGRAM >sluice.cdx.json
//
// It has no time and no serial number: the same program gives the same bytes.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

//go:embed licenses.txt
var licenseList string

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sbom VERSION PROGRAM")
		os.Exit(2)
	}
	if err := write(os.Stdout, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func write(to io.Writer, version, program string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	sum, err := hash(program)
	if err != nil {
		return err
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	l := licenses()
	bom := cdx.NewBOM()
	root := cdx.Component{BOMRef: "sluice", Type: cdx.ComponentTypeApplication, Name: "sluice", Version: version,
		Description: "local metrics agent", Licenses: l.of("sluice"),
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}},
		Properties: &[]cdx.Property{{Name: "cdx:gomod:build:env:GOOS", Value: settings["GOOS"]}, {Name: "cdx:gomod:build:env:GOARCH", Value: settings["GOARCH"]},
			{Name: "cdx:gomod:build:env:CGO_ENABLED", Value: settings["CGO_ENABLED"]}}}
	bom.Metadata = &cdx.Metadata{Component: &root}

	// The linker does not note which module needs which: all are of the program.
	parts := append([]*debug.Module{{Path: "std", Version: info.GoVersion}}, info.Deps...)
	var components []cdx.Component
	var needed []string
	for _, m := range parts {
		if m.Replace != nil {
			m = m.Replace
		}
		c := component(m)
		c.Licenses = l.of(m.Path)
		components = append(components, c)
		needed = append(needed, c.BOMRef)
	}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: root.BOMRef, Dependencies: &needed}}
	if l.missing != nil {
		return errors.Join(l.missing...)
	}
	return cdx.NewBOMEncoder(to, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
}

// component names a module as a package URL does (github.com/package-url/purl-spec,
// types/golang). Its sum is that of go.sum, which no algorithm of CycloneDX is.
func component(m *debug.Module) cdx.Component {
	c := cdx.Component{Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B")}
	c.BOMRef = c.PackageURL
	if m.Sum != "" {
		c.Properties = &[]cdx.Property{{Name: "sluice:go.sum", Value: m.Sum}}
	}
	return c
}

func hash(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

type licenseTable struct {
	known   map[string]string
	missing []error
}

func licenses() *licenseTable {
	l := &licenseTable{known: map[string]string{}}
	for line := range strings.Lines(licenseList) {
		if module, expression, ok := strings.Cut(strings.TrimSpace(line), " "); ok && module != "#" {
			l.known[module] = strings.TrimSpace(expression)
		}
	}
	return l
}

// of answers a module's licence, and notes that there is none.
func (l *licenseTable) of(module string) *cdx.Licenses {
	expression := l.known[module]
	switch {
	case expression == "":
		l.missing = append(l.missing, fmt.Errorf("licenses.txt does not have the licence of %s: read it, and add a line", module))
		return nil
	case strings.Contains(expression, " "):
		return &cdx.Licenses{{Expression: expression}}
	}
	return &cdx.Licenses{{License: &cdx.License{ID: expression}}}
}
