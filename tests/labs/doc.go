// Package labs runs real courses and tutorials, command for command as a student
// types them, on the built Kedge and without the internet: what the labs pull
// from Docker Hub comes from a mirror that the test starts, what they pull from
// a private registry comes from one with a login.
//
//	make labs
//	go test -tags labs -run TestLabA ./tests/labs
package labs
