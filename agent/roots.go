package main

// The certificates of public authorities, for where there are none to find, such
// as an empty container image. What the system has goes first.
import _ "golang.org/x/crypto/x509roots/fallback"
