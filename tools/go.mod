module github.com/kedge-k8s/kedge/tools

go 1.26.8

tool github.com/golangci/golangci-lint/v2/cmd/golangci-lint

require github.com/golangci/golangci-lint/v2 v2.15.0 // indirect
