package listeners

import (
	"os"
	"strings"
	"testing"

	"sluice/aggregator"
)

// TestEveryReasonIsDocumented looks for the row of each reason that a line can
// have. No listener has frames yet.
func TestEveryReasonIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/protocols.md")
	if err != nil {
		t.Fatal(err)
	}
	for reason := aggregator.Taken + 1; reason < aggregator.Reasons; reason++ {
		if reason == aggregator.BadFrame {
			continue
		}
		if row := "\n| `" + reason.String() + "` | "; !strings.Contains(string(page), row) {
			t.Errorf("docs/protocols.md says nothing about the reason %s", reason)
		}
	}
}
