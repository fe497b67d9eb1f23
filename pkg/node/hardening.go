package node

import (
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
)

// StrongCiphers are the TLS 1.2 ciphers that the CIS Kubernetes Benchmark allows
// and that have forward secrecy. TLS 1.3 has no others.
const StrongCiphers = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256," +
	"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"

const (
	cisPodPids       = 4096
	cisStreamingIdle = 5 * time.Minute
)

// harden sets what the CIS Kubernetes Benchmark asks of a kubelet, section 4.2.
func harden(kc *kubeletconfig.KubeletConfiguration) {
	kc.TLSCipherSuites = strings.Split(StrongCiphers, ",")
	kc.PodPidsLimit = cisPodPids
	kc.SeccompDefault = true
	kc.StreamingConnectionIdleTimeout = metav1.Duration{Duration: cisStreamingIdle}
}
