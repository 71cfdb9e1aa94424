package dataplane

import (
	"runtime"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// BenchmarkConnections are the figures that RFC 9693 asks for of a stateful NAT, of the
// whole walk on one worker. One op is one connection (a flow of UDP):
//
//	setup     from an empty table to a full one, its memory not yet touched
//	teardown  from a full one to an empty one: by a command, or because all are
//	          idle for too long; as much at a time as a running gateway does
//
// Capacity is how many connections a table made for so many holds when it refuses the
// first one.
func BenchmarkConnections(b *testing.B) {
	for _, size := range benchSizes {
		if size.flows < shortFlows || size.flows > 4<<20 || !room(b, size.flows) {
			continue
		}
		for _, phase := range []struct {
			name string
			run  func(x *world, clock func(func()))
		}{
			{"setup", func(x *world, clock func(func())) {
				clock(func() { x.all(x.traffic(tuple.Original, benchUDP)) })
				x.there(len(x.flows))
			}},
			{"teardown-command", func(x *world, clock func(func())) {
				x.all(x.traffic(tuple.Original, benchUDP))
				x.there(len(x.flows))
				x.lan.idle = true
				clock(func() {
					x.e.Table().Flush()
					x.step()
					x.step()
				})
				x.there(0)
			}},
			{"teardown-idle", func(x *world, clock func(func())) {
				x.all(x.traffic(tuple.Original, benchUDP))
				x.there(len(x.flows))
				x.lan.idle = true
				x.now += int64(conntrack.LinuxTimeouts.UDP)
				clock(func() {
					for x.e.Table().Len() > 0 {
						x.now += int64(conntrack.TickLength)
						x.step()
					}
				})
			}},
		} {
			b.Run(phase.name+"/flows="+size.name, func(run *testing.B) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				var passed, cpu time.Duration
				done := 0
				for ; done < run.N; done += size.flows {
					x := newWorld(run, size.flows, bulkConfig{})
					phase.run(x, func(f func()) {
						began, from := time.Now(), threadTime()
						f()
						passed, cpu = passed+time.Since(began), cpu+threadTime()-from
					})
					x.close()
				}
				run.ReportMetric(float64(passed)/float64(done), "ns/op")
				run.ReportMetric(float64(cpu)/float64(done), "cpu-ns/op")
				run.ReportMetric(float64(done)/passed.Seconds(), "conns/s")
			})
		}
		b.Run("capacity/flows="+size.name, func(run *testing.B) {
			x := newWorld(run, size.flows+size.flows/8, bulkConfig{table: conntrack.Config{Max: size.flows}})
			tr := x.traffic(tuple.Original, benchUDP)
			for room := true; room; {
				x.batch(tr)
				s := x.e.Stats()
				room = s.Drops() == 0 && x.e.Table().Stats().EarlyDrop == 0
			}
			n := x.e.Table().Len()
			run.ReportMetric(0, "ns/op")
			run.ReportMetric(float64(n), "connections")
			run.ReportMetric(100*float64(n)/float64(size.flows), "%")
			closeBulk(run, x.e)
		})
	}
}
