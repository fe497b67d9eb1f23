//go:build !race

package datastore

// raceDetector says whether these tests run with it.
const raceDetector = false
