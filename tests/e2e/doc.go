// Package e2e tests the behaviour of the built Kedge: its commands, and real pods
// on hosts of the testbed. It needs root and dist/kedge (or KEDGE_BIN):
//
//	go test -tags e2e -parallel 8 ./tests/e2e
package e2e
