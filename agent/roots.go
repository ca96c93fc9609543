package main

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// trustAuthorities gives the certificates of public authorities for where there are none to
// find, such as an empty container image. What the system has goes first. It is to be called
// before an upstream is: to read the certificates takes a megabyte, which without an upstream
// nobody needs.
var trustAuthorities = sync.OnceFunc(func() {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		c, err := x509.ParseCertificate(root.Certificate)
		switch {
		case err != nil:
			panic("agent: a certificate of the bundle: " + err.Error()) // it is part of the program
		case root.Constraint != nil:
			pool.AddCertWithConstraint(c, root.Constraint)
		default:
			pool.AddCert(c)
		}
	}
	x509.SetFallbackRoots(pool)
})
