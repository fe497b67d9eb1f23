// Package e2e tests the behaviour of the built Kedge: its commands, and real pods
// on hosts of the testbed. It needs root and dist/kedge (or the file that KEDGE_BIN
// names):
//
//	make e2e
//	go test -tags e2e -run TestCluster/DNS ./tests/e2e
//
// What a failed test has collected lies below KEDGE_TEST_LOGS, by default below
// the directory for temporary files.
package e2e
