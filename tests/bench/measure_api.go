package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

const (
	apiRequests = 500 // of each kind, by all clients together
	apiWarmUp   = 20  // before them, not counted
	apiObjects  = 100 // in a list
	apiPayload  = 1024
)

var (
	apiWorkers     = [...]int{1, 4}
	apiOperations  = [...]string{"get", "list", "create"}
	apiPercentiles = [...]int{50, 99}
)

func apiKey(operation string, workers, percentile int) string {
	return fmt.Sprintf("api-%s-%d-p%d", operation, workers, percentile)
}

// measureAPI measures what clients see of requests for ConfigMaps. All use one
// connection, as the clients in one program do.
func (r *run) measureAPI(ctx context.Context) error {
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	const reading = "bench-read"
	if err := createNamespace(ctx, client, reading); err != nil {
		return err
	}
	for i := range apiObjects {
		if err := client.Create(ctx, configMaps(reading), configMap(i)); err != nil {
			return err
		}
	}
	for _, workers := range apiWorkers {
		writing := fmt.Sprintf("bench-write-%d", workers)
		if err := createNamespace(ctx, client, writing); err != nil {
			return err
		}
		requests := map[string]func(i int) error{
			"get": func(i int) error {
				_, err := client.Get(ctx, configMaps(reading)+"/"+configMapName(i%apiObjects))
				return err
			},
			"list": func(int) error {
				_, err := client.Get(ctx, configMaps(reading))
				return err
			},
			"create": func(i int) error {
				body, err := json.Marshal(configMap(i))
				if err != nil {
					return err
				}
				_, err = client.Do(ctx, http.MethodPost, configMaps(writing), "application/json", body)
				return err
			},
		}
		for _, operation := range apiOperations {
			took, err := hammer(workers, requests[operation])
			if err != nil {
				return err
			}
			for _, p := range apiPercentiles {
				r.record(apiKey(operation, workers, p), percentile(took, p).Seconds()*1e3)
			}
		}
	}
	return nil
}

// hammer sends the requests, with so many at a time, and returns how long each
// took, in order of that.
func hammer(workers int, request func(i int) error) ([]time.Duration, error) {
	took := make([]time.Duration, apiWarmUp+apiRequests)
	next := make(chan int)
	errs := make(chan error, len(took))
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := range next {
				began := time.Now()
				if err := request(i); err != nil {
					errs <- err
				}
				took[i] = time.Since(began)
			}
		})
	}
	for i := range took {
		next <- i
	}
	close(next)
	all.Wait()
	close(errs)
	for err := range errs {
		return nil, err
	}
	return slices.Sorted(slices.Values(took[apiWarmUp:])), nil
}

// percentile is the smallest of the sorted values that p percent are not above.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[int(math.Ceil(float64(len(sorted)*p)/100))-1]
}

func createNamespace(ctx context.Context, client *cluster.Client, name string) error {
	err := client.Create(ctx, "/api/v1/namespaces", cluster.Object{"metadata": cluster.Object{"name": name}})
	if err != nil {
		return err
	}
	// Pods are refused until the namespace has its service account.
	return client.WaitObject(ctx, "/api/v1/namespaces/"+name+"/serviceaccounts", "default",
		func([]byte) bool { return true })
}

func configMaps(namespace string) string { return "/api/v1/namespaces/" + namespace + "/configmaps" }

func configMapName(i int) string { return fmt.Sprintf("object-%d", i) }

func configMap(i int) cluster.Object {
	return cluster.Object{
		"metadata": cluster.Object{"name": configMapName(i)},
		"data":     cluster.Object{"text": strings.Repeat("x", apiPayload)},
	}
}
