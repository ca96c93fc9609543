package main

import (
	"crypto/x509"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"sluice/configs"
)

// An agent with an upstream knows the public authorities where the system has none. One
// without has not read them. Another process shows it, for both hold for a process as a whole.
func TestAuthorities(t *testing.T) {
	if os.Getenv("SLUICE_TEST_AUTHORITIES") == "" {
		c := exec.Command(os.Args[0], "-test.run=^TestAuthorities$", "-test.v")
		c.Env = append(os.Environ(), "SLUICE_TEST_AUTHORITIES=1", "SSL_CERT_FILE=/nonexistent", "SSL_CERT_DIR=/nonexistent")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	known := func() (n, all int) {
		for root := range bundle.Roots() {
			c, err := x509.ParseCertificate(root.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			all++
			if _, err := c.Verify(x509.VerifyOptions{CurrentTime: c.NotBefore.Add(time.Hour), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
				n++
			}
		}
		return n, all
	}
	cfg := configs.Default()
	cfg.Listen, cfg.Spool.Dir = configs.Listen{}, t.TempDir()
	open := func() {
		a, err := newAgent("", cfg, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		a.first.abandon()
	}
	open()
	if n, all := known(); n != 0 {
		t.Errorf("without an upstream %d of %d authorities are known, want none", n, all)
	}
	cfg.Upstreams = []configs.Upstream{configs.DefaultUpstream("flux")}
	open()
	if n, all := known(); n == 0 || n < all/2 { // some are for certificates of before a certain day alone
		t.Errorf("with an upstream %d of %d authorities are known", n, all)
	}
}
