// The hot path of package conntrack in C: the same layout and work, to see what
// Go costs. Built and driven by twin_test.go: "twin FLOWS" makes a table of
// established UDP flows, then takes as many packets through it as each line of
// its input says and answers with the nanoseconds its thread took.
//
// It shares no code with the tracker but follows it step by step; whoever
// changes worker.go's Lookup, bucket.go or the way of an established UDP packet
// in track.go changes this, too.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

enum { BATCH = 64, GROUP = 16, PLACES = 10, MAX_PROBE = 32, FULL = 64, PER_SHARD = 256, MAX_SHARDS = 1024 };
enum { SEEN_REPLY = 1 << 1, ASSURED = 1 << 2, CONFIRMED = 1 << 3, DYING = 1 << 9, FIXED = 1 << 10,
       OWN_TIMEOUT = 1 << 20, OWN_POLICY = 1 << 22 };

struct tuple { u8 src[16], dst[16]; u16 sport, dport; u8 proto, family; u16 zone; };
struct half { struct tuple t; u64 packets, bytes; u32 seen, hint; };
struct entry {
	u32 word, status, timeout, mark, gen, rule, ext, segment;
	u32 proto[8]; // stream, owner of each direction, ...
	struct half half[2];
};
struct bucket { u64 tags[3]; u32 ids[PLACES]; };

_Static_assert(sizeof(struct tuple) == 40, "five words");
_Static_assert(sizeof(struct entry) == 192, "three lines");
_Static_assert(sizeof(struct bucket) == 64, "a line");

static struct bucket *buckets;
static struct entry *entries;
static struct tuple *stream;
static u64 stream_len, stream_at, found;
static u64 k0 = 0x0706050403020100, k1 = 0x0f0e0d0c0b0a0908;
static u32 shard_bits;
static u64 per_shard, probe;
static u32 me = 1, udp_stream = 12000, now = 100500;

static void *map(size_t n)
{
	void *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		perror("twin: mmap");
		exit(1);
	}
	madvise(p, n, MADV_HUGEPAGE);
	return p;
}

#define ROTL(x, n) ((x) << (n) | (x) >> (64 - (n)))
#define ROUND \
	(v0 += v1, v1 = ROTL(v1, 13) ^ v0, v0 = ROTL(v0, 32), \
	 v2 += v3, v3 = ROTL(v3, 16) ^ v2, \
	 v0 += v3, v3 = ROTL(v3, 21) ^ v0, \
	 v2 += v1, v1 = ROTL(v1, 17) ^ v2, v2 = ROTL(v2, 32))

static inline u64 sip(const struct tuple *t)
{
	u64 w[5];
	memcpy(w, t, sizeof w);
	u64 v0 = k0 ^ 0x736f6d6570736575, v1 = k1 ^ 0x646f72616e646f6d;
	u64 v2 = k0 ^ 0x6c7967656e657261, v3 = k1 ^ 0x7465646279746573;
	for (int i = 0; i < 5; i++) {
		v3 ^= w[i];
		ROUND;
		v0 ^= w[i];
	}
	v2 ^= 0xff;
	ROUND;
	ROUND;
	ROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}

static inline int same(const struct tuple *a, const struct tuple *b)
{
	u64 x[5], y[5];
	memcpy(x, a, sizeof x);
	memcpy(y, b, sizeof y);
	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4])) == 0;
}

static inline u64 shard_of(u64 h) { return shard_bits ? h >> (64 - shard_bits) : 0; }
static inline u64 home_of(u64 h) { return (u64)((unsigned __int128)(h << shard_bits) * per_shard >> 64); }
static inline u64 tag_of(u64 h) { return (h & 0xffff) ? (h & 0xffff) : 1; }
static inline struct bucket *bucket_at(u64 h, u64 i)
{
	u64 b = home_of(h) + i;
	if (b >= per_shard)
		b -= per_shard;
	return &buckets[shard_of(h) * per_shard + b];
}

static inline u64 load64(const u64 *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline u32 load32(const u32 *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store32(u32 *p, u32 v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void add64(u64 *p, u64 n) { __atomic_store_n(p, *p + n, __ATOMIC_RELEASE); }

static inline u64 equal(u64 w, u64 tag)
{
	w ^= tag * 0x0001000100010001;
	return (w - 0x0001000100010001) & ~w & 0x8000800080008000;
}
#define LAST_TAGS 0x80008000u // two lanes of the last word are tags
static inline u64 overflow(const struct bucket *b) { return load64(&b->tags[2]) >> 32 & 0xffff; }

static inline u32 candidate(const struct bucket *b, u64 tag)
{
	u64 m = equal(load64(&b->tags[0]), tag) >> 15 | equal(load64(&b->tags[1]), tag) >> 14 |
		(equal(load64(&b->tags[2]), tag) & LAST_TAGS) >> 13;
	if (!m)
		return 0;
	u32 at = __builtin_ctzll(m);
	return load32(&b->ids[at / 16 + at % 16 * 4]);
}

static u32 find(const struct tuple *k, u64 h)
{
	for (u64 i = 0; i < probe; i++) {
		struct bucket *b = bucket_at(h, i);
		for (int w = 0; w < 3; w++) {
			u64 m = equal(load64(&b->tags[w]), tag_of(h));
			if (w == 2)
				m &= LAST_TAGS;
			for (; m; m &= m - 1) {
				u32 id = load32(&b->ids[w * 4 + __builtin_ctzll(m) / 16]);
				if (same(&entries[id >> 1].half[id & 1].t, k))
					return id;
			}
		}
		if (!overflow(b))
			return 0;
	}
	return 0;
}

static void insert(u64 h, u32 id)
{
	for (u64 i = 0; i < probe; i++) {
		struct bucket *b = bucket_at(h, i);
		for (int p = 0; p < PLACES; p++) {
			if (b->tags[p / 4] >> p % 4 * 16 & 0xffff)
				continue;
			b->tags[p / 4] |= tag_of(h) << p % 4 * 16;
			b->ids[p] = id;
			return;
		}
		b->tags[2] += 1ull << 32;
	}
	fprintf(stderr, "twin: no room\n");
	exit(1);
}

static inline int reached(u32 t, u32 deadline) { return (int32_t)(t - deadline) >= 0; }

// alive is the slow way of an entry that looks over.
static __attribute__((noinline)) u32 alive(u32 id)
{
	struct entry *e = &entries[id >> 1];
	if (!id || load32(&e->status) & DYING)
		return 0;
	u32 other = load32(&e->half[~id & 1].seen);
	return (load32(&e->status) & CONFIRMED) && reached(now, other + load32(&e->timeout)) ? 0 : id;
}

static void lookup(const struct tuple *keys, u32 *refs)
{
	static u64 hash[BATCH];
	static struct bucket *home[BATCH];
	static u32 ids[BATCH];
	for (int at = 0; at < BATCH + 2 * GROUP; at += GROUP) {
		if (at < BATCH) {
			for (int i = at; i < at + GROUP; i++)
				hash[i] = sip(&keys[i]);
			for (int i = at; i < at + GROUP; i++) {
				home[i] = bucket_at(hash[i], 0);
				__builtin_prefetch(home[i]);
			}
		}
		if (at >= GROUP && at < BATCH + GROUP)
			for (int i = at - GROUP; i < at; i++) {
				u32 id = ids[i] = candidate(home[i], tag_of(hash[i]));
				__builtin_prefetch(&entries[id >> 1].half[id & 1]);
				__builtin_prefetch(&entries[id >> 1].word);
			}
		if (at >= 2 * GROUP)
			for (int i = at - 2 * GROUP; i < at - GROUP; i++) {
				u32 id = ids[i];
				if (!id && !overflow(home[i])) {
					refs[i] = 0;
					continue;
				}
				struct entry *e = &entries[id >> 1];
				struct half *h = &e->half[id & 1];
				if (!id || !same(&h->t, &keys[i]))
					id = alive(find(&keys[i], hash[i]));
				else if (reached(now, load32(&h->seen) + load32(&e->timeout)) || load32(&e->status) & DYING)
					id = alive(id);
				refs[i] = id;
				found += id != 0;
			}
	}
}

static __attribute__((noinline)) void track(u32 id, u32 bytes)
{
	const u32 usual = SEEN_REPLY | ASSURED;
	struct entry *e = &entries[id >> 1];
	struct half *h = &e->half[id & 1];
	u32 status = load32(&e->status);
	if (h->t.proto != 17 || (status & (usual | FIXED | OWN_TIMEOUT | OWN_POLICY)) != usual ||
	    load32(&e->proto[1 + (id & 1)]) != me || load32(&e->timeout) != udp_stream || !reached(now, e->proto[0])) {
		fprintf(stderr, "twin: not the usual packet\n");
		exit(1);
	}
	add64(&h->packets, 1);
	add64(&h->bytes, bytes);
	if ((int32_t)(now - load32(&h->seen)) > 0)
		store32(&h->seen, now);
}

static void tuple_of(u32 i, int dir, struct tuple *t)
{
	static const u8 net[4] = { 0x20, 0x01, 0x0d, 0xb8 };
	u8 inside[16] = { 0 }, outside[16] = { 0 };
	memcpy(inside, net, 4);
	memcpy(outside, net, 4);
	inside[7] = i;
	inside[11] = i >> 24;
	outside[15] = 7;
	u16 port = i >> 8;
	*t = (struct tuple){ .proto = 17, .family = 10 };
	memcpy(dir ? t->dst : t->src, inside, 16);
	memcpy(dir ? t->src : t->dst, outside, 16);
	t->sport = dir ? 443 : port;
	t->dport = dir ? port : 443;
}

static void fill(u32 flows)
{
	u64 locks = flows / PER_SHARD < MAX_SHARDS ? flows / PER_SHARD : MAX_SHARDS;
	while (2ull << shard_bits <= locks)
		shard_bits++;
	per_shard = 2ull * flows / (PLACES * FULL * (1ull << shard_bits) / 100) + 4;
	probe = per_shard < MAX_PROBE ? per_shard : MAX_PROBE;
	buckets = map((per_shard << shard_bits) * sizeof *buckets);
	entries = map((flows + 1ull) * sizeof *entries);
	for (u32 i = 0; i < flows; i++) {
		struct entry *e = &entries[i + 1];
		e->status = SEEN_REPLY | ASSURED | CONFIRMED;
		e->timeout = udp_stream;
		e->proto[0] = now - 300;
		for (int d = 0; d < 2; d++) {
			tuple_of(i, d, &e->half[d].t);
			e->half[d].seen = now - 500;
			e->proto[1 + d] = me;
			insert(sip(&e->half[d].t), (i + 1) << 1 | d);
		}
	}
}

static u64 next_random(void)
{
	static u64 x = 88172645463325252;
	x ^= x << 13, x ^= x >> 7, x ^= x << 17;
	return x;
}

// shuffle makes the stream: each direction of each flow once, at most 4 M.
static void shuffle(u32 flows)
{
	u64 n = 2ull * flows;
	u32 *order = malloc(n * sizeof *order);
	for (u64 i = 0; i < n; i++)
		order[i] = i;
	for (u64 i = n - 1; i; i--) {
		u64 j = next_random() % (i + 1);
		u32 o = order[i];
		order[i] = order[j], order[j] = o;
	}
	stream_len = n < 4 << 20 ? n : 4 << 20;
	stream = malloc(stream_len * sizeof *stream);
	for (u64 i = 0; i < stream_len; i++)
		tuple_of(order[i] / 2, order[i] & 1, &stream[i]);
	free(order);
}

static u64 thread_time(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv)
{
	u32 flows = argc > 1 ? strtoul(argv[1], 0, 10) : 0, refs[BATCH];
	if (flows < BATCH) {
		fprintf(stderr, "usage: twin FLOWS\n");
		return 2;
	}
	fill(flows);
	shuffle(flows);
	long packets;
	while (scanf("%ld", &packets) == 1) {
		u64 want = found + packets / BATCH * BATCH, begin = thread_time();
		for (; packets >= BATCH; packets -= BATCH) {
			lookup(stream + stream_at, refs);
			for (int i = 0; i < BATCH; i++)
				track(refs[i], 160);
			if ((stream_at += BATCH) + BATCH > stream_len)
				stream_at = 0;
		}
		printf("%llu\n", (unsigned long long)(thread_time() - begin));
		fflush(stdout);
		if (found != want) {
			fprintf(stderr, "twin: found %llu flows of %llu\n", (unsigned long long)found, (unsigned long long)want);
			return 1;
		}
	}
	return 0;
}
