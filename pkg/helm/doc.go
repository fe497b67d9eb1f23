// Package helm installs the Helm charts that HelmChart objects ask for, in the
// process of the server.
//
// A Controller watches HelmCharts and HelmChartConfigs. What an object asks for
// becomes a request: where the chart is, the values, and a hash of both. The
// hash is kept in a label of the release, so that a release that is as wanted
// costs one list of metadata, and Helm's own clients are made only for work.
package helm
