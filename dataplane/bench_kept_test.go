package dataplane

import (
	"os"
	"path/filepath"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/keep"
)

// keptFolder names the environment variable with the folder that BenchmarkKept keeps flows
// in: one on a tmpfs with huge pages, say.
const keptFolder = "CULVERT_BENCH_STATE"

// BenchmarkKept is BenchmarkPipeline with flows in memory that ends with the process, and
// in a folder that outlives it, in turns.
func BenchmarkKept(b *testing.B) {
	root := os.Getenv(keptFolder)
	if root == "" {
		root = "/dev/shm"
	}
	for _, size := range benchSizes {
		if !room(b, 2*size.flows) || size.flows > 1<<20 {
			continue
		}
		b.Run("udp/flows="+size.name, func(b *testing.B) {
			dir, err := os.MkdirTemp(root, "culvert-bench-")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			folder, err := keep.Open(filepath.Join(dir, "state"), keep.Alone)
			if err != nil {
				b.Fatal(err)
			}
			defer folder.Close()
			ends := newUDPWorld(b, size.flows, bulkConfig{})
			defer ends.close()
			kept := newUDPWorld(b, size.flows, bulkConfig{table: conntrack.Config{Memory: folder}, engine: Config{Memory: folder}})
			defer kept.close()
			for range 4 {
				for i, x := range []*world{ends, kept} {
					ways := []*traffic{x.traffic(tuple.Original, benchUDP), x.traffic(tuple.Reply, benchUDP)}
					turn := 0
					b.Run([]string{"memory", "folder"}[i], func(b *testing.B) {
						measure(b, func() {
							x.batch(ways[turn%len(ways)])
							turn++
						})
					})
				}
			}
		})
	}
}
