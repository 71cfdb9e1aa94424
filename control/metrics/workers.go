package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/culvert/dataplane"
)

var (
	workerRx    = describe("culvert_worker_received_packets_total", "Packets that a worker took, those of the own stack and kernel included.", "worker")
	workerRxB   = describe("culvert_worker_received_bytes_total", "Bytes of frames that a worker took from interfaces.", "worker")
	workerTx    = describe("culvert_worker_forwarded_packets_total", "Packets that a worker sent out of an interface.", "worker")
	workerTxB   = describe("culvert_worker_forwarded_bytes_total", "Bytes of IP packets that a worker sent or gave to the gateway itself.", "worker")
	workerDrops = describe("culvert_worker_receive_ring_dropped_total", "Frames the kernel dropped because a worker was too slow to take them; add workers, or look which flows all meet on this one.", "worker")
	workerBusy  = describe("culvert_worker_busy_seconds_total", "Time that a worker spent on packets; its rate is the share of a processor.", "worker")
	workerStall = describe("culvert_worker_stalls_total", "How often a worker began no batch for a second or longer; find out what keeps its thread from running (top -H shows it by its name).", "worker")
	workerSize  = describe("culvert_worker_batch_packets", "Packets that a worker took from a queue at once. Full batches (64) say that it has more to do than it can.", "worker")
	workerTime  = describe("culvert_worker_batch_seconds", "Time from taking packets of a worker's queues to having sent them.", "worker")

	working     = describe("culvert_workers_working", "Workers that interfaces give packets to: by load, unless workers in [gateway] says how many.")
	steerings   = describe("culvert_steering_changes_total", "How often that number changed.")
	steerFailed = describe("culvert_steering_failed_total", "Times that an interface could not be told which worker takes what; its packets go on as before. Should stay zero.")

	queueLength = describe("culvert_queue_length", "What waits in a queue, of all workers together: packets for the address of a neighbour, flows to be ended with notice, what is to be logged (refusal, announcement, port-block) or told (event, port-notice); bytes of frames that wait for other fragments (fragment); and slots of 2 KB between workers and the own stack (host-link, host-question, host-in, host-out).", "queue")
	queueRoom   = describe("culvert_queue_limit", "Most that a queue can hold.", "queue")
)

func collectWorkers(workers []dataplane.WorkerStats, queues []dataplane.QueueLoad, gauge gauger, count counter, to chan<- prometheus.Metric) {
	for i := range workers {
		w, name := &workers[i], strconv.Itoa(i)
		count(workerRx, w.Received, name)
		count(workerRxB, w.RxBytes, name)
		count(workerTx, w.Forwarded, name)
		count(workerTxB, w.Bytes, name)
		count(workerDrops, w.RxRingDrops, name)
		count(workerStall, w.Stalls, name)
		to <- prometheus.MustNewConstMetric(workerBusy, prometheus.CounterValue, w.Busy.Seconds(), name)
		histogram(to, workerSize, &w.BatchSize, name)
		histogram(to, workerTime, &w.BatchTime, name)
	}
	for _, q := range queues {
		gauge(queueLength, float64(q.Length), string(q.Name))
		gauge(queueRoom, float64(q.Room), string(q.Name))
	}
}

func collectSteering(s dataplane.Steering, gauge gauger, count counter) {
	gauge(working, float64(s.Working))
	count(steerings, s.Changes)
	count(steerFailed, s.Failed)
}

func histogram(to chan<- prometheus.Metric, d *prometheus.Desc, h *dataplane.Histogram, labels ...string) {
	buckets := make(map[float64]uint64, len(h.Bounds))
	for i, bound := range h.Bounds {
		buckets[bound] = h.Counts[i]
	}
	to <- prometheus.MustNewConstHistogram(d, h.Count, h.Sum, buckets, labels...)
}
