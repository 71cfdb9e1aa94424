// Package configs holds the sample configuration files, what makes a service of the
// gateway, and what watches it: a dashboard for Grafana, and alert rules for
// Prometheus with their tests, which package metrics holds against what it exports.
// Each configuration is loaded by the test beside it and exercised with traffic by
// the tests of the gateway; the unit is compared with what a running gateway does,
// in test/netns/e2e/box.
package configs
