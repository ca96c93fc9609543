package test

import (
	"archive/tar"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// A sbom is what the tests read of a bill of materials.
type sbom struct {
	Metadata struct {
		Component struct {
			Name, Version string
			Hashes        []struct{ Alg, Content string }
		}
	}
	Components []struct {
		Name, Version, Purl string
		Licenses            []struct {
			Expression string
			License    struct{ ID string }
		}
	}
	Dependencies []struct {
		Ref       string
		DependsOn []string
	}
}

// accepted are the licences that a module in the program may have.
var accepted = regexp.MustCompile(`^(MIT|MIT-0|BSD-[23]-Clause|ISC|Apache-2\.0)( AND (MIT|MIT-0|BSD-[23]-Clause|ISC|Apache-2\.0))*$`)

// TestSBOM holds each bill of materials to the published schema of CycloneDX 1.6, which also
// knows all licences of SPDX, and to the program that it is about.
func TestSBOM(t *testing.T) {
	schema := sbomSchema(t)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(dist(t, "SHA256SUMS")), "*.cdx.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the files are %v, %v", files, err)
	}
	for _, file := range files {
		target := regexp.MustCompile(`(linux|darwin)-[a-z0-9]+`).FindString(filepath.Base(file))
		t.Run(target, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(value); err != nil {
				t.Errorf("%v", err)
			}
			var b sbom
			if err := json.Unmarshal(text, &b); err != nil {
				t.Fatal(err)
			}
			checkSBOM(t, b, dist(t, target+"/sluice"))
		})
	}
}

// sbomSchema compiles the schema that the library of packaging/sbom brings along.
func sbomSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	out, err := exec.Command("go", "-C", "../sbom", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	for _, name := range []string{"bom-1.6.schema.json", "spdx.schema.json", "jsf-0.82.schema.json"} {
		files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "schema", strings.TrimSuffix(name, ".json")+"*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: %v, %v", name, files, err)
		}
		f, err := os.Open(files[0])
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		document, err := jsonschema.UnmarshalJSON(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource("http://cyclonedx.org/schema/"+name, document); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func checkSBOM(t *testing.T, b sbom, program string) {
	t.Helper()
	bytes, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(bytes)
	if hashes := b.Metadata.Component.Hashes; len(hashes) != 1 || hashes[0].Alg != "SHA-256" || hashes[0].Content != hex.EncodeToString(sum[:]) {
		t.Errorf("the program's hashes are %v, want SHA-256 %x", hashes, sum)
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"std": info.GoVersion}
	for _, m := range info.Deps {
		want[m.Path] = m.Version
	}
	for _, c := range b.Components {
		if want[c.Name] != c.Version || c.Purl != "pkg:golang/"+c.Name+"@"+c.Version {
			t.Errorf("%s %s (%s) is in the list, the program has %q of it", c.Name, c.Version, c.Purl, want[c.Name])
		}
		delete(want, c.Name)
		if len(c.Licenses) != 1 || !accepted.MatchString(c.Licenses[0].Expression+c.Licenses[0].License.ID) {
			t.Errorf("the licences of %s are %v", c.Name, c.Licenses)
		}
	}
	for name := range want {
		t.Errorf("%s is in the program, and not in the list", name)
	}
	if len(b.Dependencies) != 1 || len(b.Dependencies[0].DependsOn) != len(b.Components) {
		t.Errorf("the dependencies are %v", b.Dependencies)
	}
}

// TestSBOMShipped: packages and image have the bill of their program, and the checksums
// are about it, too.
func TestSBOMShipped(t *testing.T) {
	file := dist(t, "sluice-*-linux-amd64.cdx.json")
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const inside = "usr/share/doc/sluice/sluice.cdx.json"
	need(t, "dpkg-deb", "skopeo", "umoci")
	got := ""
	deb := exec.Command("dpkg-deb", "--fsys-tarfile", dist(t, "sluice_*_amd64.deb"))
	out, err := deb.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := deb.Start(); err != nil {
		t.Fatal(err)
	}
	for files := tar.NewReader(out); ; {
		h, err := files.Next()
		if err != nil {
			break
		}
		if strings.TrimPrefix(h.Name, "./") == inside || strings.TrimPrefix(h.Name, "/") == inside {
			text, _ := io.ReadAll(files)
			got = string(text)
		}
	}
	deb.Wait()
	if got != string(want) {
		t.Errorf("the package has %d bytes of it, want %d", len(got), len(want))
	}
	dir := t.TempDir()
	run(t, "skopeo", "copy", "-q", "--override-arch", "amd64", "oci-archive:"+dist(t, "sluice-image.oci.tar"), "oci:"+dir+"/oci:sluice")
	run(t, "umoci", "unpack", "--image", dir+"/oci:sluice", dir+"/bundle")
	if text, err := os.ReadFile(filepath.Join(dir, "bundle", "rootfs", inside)); err != nil || string(text) != string(want) {
		t.Errorf("the image has %d bytes of it (%v), want %d", len(text), err, len(want))
	}
	sums, err := os.ReadFile(dist(t, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(want)
	if line := hex.EncodeToString(sum[:]) + "  " + filepath.Base(file) + "\n"; !strings.Contains(string(sums), line) {
		t.Errorf("SHA256SUMS does not have %q", line)
	}
}
