package configs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"text/template"

	"gopkg.in/yaml.v3"
)

// A canary in every secret of a configuration must not come out of anything
// that prints.
func TestSecretsStayInside(t *testing.T) {
	const canary = "sk_canary"
	c := Default()
	u := DefaultUpstream(Flux)
	u.APIKey, u.Key = canary, canary
	c.Upstreams = []Upstream{u}
	c.Listen.HTTPToken = canary

	printed := map[string]string{}
	for _, value := range []any{c, &c, u, u.Key, &u.Key, []Secret{u.Key}, map[string]Secret{"key": u.Key}, struct{ S any }{u.Key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%e", "%U", "%10.3s", "%s %s", "no verb", "%[3]*.[2]*[1]f"} {
			printed[fmt.Sprintf("%T %s", value, verb)] = fmt.Sprintf(verb, value)
		}
		j, err := json.Marshal(value)
		printed[fmt.Sprintf("%T json", value)] = fmt.Sprint(string(j), err)
		y, err := yaml.Marshal(value)
		printed[fmt.Sprintf("%T yaml", value)] = fmt.Sprint(string(y), err)
		var text, jsons bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("m", "value", value)
		slog.New(slog.NewJSONHandler(&jsons, nil)).Info("m", "value", value)
		printed[fmt.Sprintf("%T slog text", value)] = text.String()
		printed[fmt.Sprintf("%T slog json", value)] = jsons.String()
		var b bytes.Buffer
		if err := template.Must(template.New("").Parse("{{.}}")).Execute(&b, value); err != nil {
			t.Error(err)
		}
		printed[fmt.Sprintf("%T template", value)] = b.String()
	}
	printed["redacted"] = string(Redacted(c))
	for how, out := range printed {
		if strings.Contains(out, canary) || strings.Contains(strings.ToLower(out), fmt.Sprintf("%x", canary)) {
			t.Errorf("%s shows the secret: %s", how, out)
		}
	}
	if got, want := u.Key.Reveal(), canary; got != want {
		t.Errorf("Reveal() = %s, want %s", got, want)
	}
	if got, want := fmt.Sprintf("%s|%v|%s", u.Key, Secret(""), Secret("").GoString()), "***||"; got != want {
		t.Errorf("a secret and an empty one print as %s, want %s", got, want)
	}
	if !strings.Contains(printed["redacted"], "api_key: '***'") && !strings.Contains(printed["redacted"], `api_key: "***"`) {
		t.Errorf("Redacted() does not show that there is a key:\n%s", printed["redacted"])
	}
}
