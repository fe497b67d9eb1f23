// Package control is how a command of Kedge asks the Kedge that runs on the same
// machine to do something: HTTP with JSON over a Unix socket that root alone may
// open. The process registers commands by name with [Handle], another calls them
// with [Call].
package control

// Socket is the name of the socket in the directory of what a reboot may clear.
const Socket = "kedge.sock"

// Commands, and what they answer.
const (
	// RotateCertificates replaces the keys and certificates of this machine,
	// but for those of authorities. Its answer is Rotated.
	RotateCertificates = "rotate-certificates"
	// RotateTokens replaces the cluster's own tokens, on servers. Its answer is
	// Rotated.
	RotateTokens = "rotate-tokens"
)

// None is a request without parameters.
type None struct{}

// Rotated lists the files that hold something new.
type Rotated struct {
	Files []string `json:"files"`
}

// failure is the body of an answer that is not 200.
type failure struct {
	Message string `json:"message"`
}

func path(command string) string { return "/v1/" + command }
