%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// cosine_topk.wgsl - exact nearest rows by cosine, scores never stored
// Computes   for each query the k rows with the largest cosine, ties to the lowest id
// Twin       src/ops/cosine_topk/ (definition, reference, host loop), kernels/cosine_topk.ptx
// Entries    inverse_norms, score, select_best, sort_best, list_scores (variant `pass`: norms, score, select, sort, list)
//
// Shapes     rows [n, d] f16; norms [n] f32; queries [n_q, d] f32; query_norms [n_q] f32 (all inverse norms);
//            filter [ceil(all rows / 32)] u32; lists [n_q, capacity] of (score bits, id);
//            state [n_q, 4] u32: candidates offered, threshold (f32 bits), overflow, unused; best [n_q, k]
// Layout     row-major, 16-byte aligned
// Requires   d % 8 == 0, k <= 2,048, capacity >= k + rows of the block (or overflow is reported)
//
// Launch     score: x, y: ceil(rows / 256) workgroups of 64; z: groups of `queries` queries
//            select_best, sort_best: one workgroup of 256 per query; inverse_norms: ceil(n / 64) of 64;
//            list_scores, which makes lists of scores `[n_q, n]` that are there already: ceil(n_q n / 64) of 64
// Mapping    score: an invocation scores 4 neighbouring rows against `queries` queries in registers
// Memory     select: 256 counters; sort: `size` pairs (16,384 B at 2,048)
// Sync       score: none (one atomic per admitted candidate); select: 3 barriers per radix digit, 4 to 8 digits;
//            sort: one barrier per step of the bitonic network
// Limits     7 storage buffers, 256 invocations, 16,384 B: within the defaults
//
// Work       2 n_q n d FLOP
// Traffic    n (2 d + 4) bytes per group of `queries` queries; the lists are a few thousand entries
// Roofline   memory bound up to about 8 queries
// Measured   see benches/results
//
// Numerics   d / 4 dot products of four in one chain; |error| of a score in error_bound of the twin.
//            Selection compares the f32 scores exactly, through integers of the same order.
// Edges      zero rows have inverse norm 0, score 0; a NaN score passes no gate; unused places get id 0xffffffff
//
//   per block:  score   s = (q . r) / (|q| |r|); if s >= threshold[q]: append (s, id) to the list of q
//               select  keep the best k of the list (radix select on score, then on id), raise threshold[q]
//   at the end: sort    the k survivors by (score descending, id ascending)

%% if pass == "norms"
struct Params { n: u32, d: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }
${array(0, "rows", rows, "read", native)}
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn inverse_norms(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = (group.x + group.y * groups.x) * 64u + lane;
    if row >= p.n {
        return;
    }
    var squares = vec4<f32>();
    for (var c = 0u; c < d4(); c += 1u) {
        let v = load_rows(row * d4() + c);
        squares += v * v;
    }
    let total = squares.x + squares.y + squares.z + squares.w;
    out[row] = select(0.0, 1.0 / sqrt(total), total > 0.0);
}
%% endif
%% if pass == "score"
struct Params { n_rows: u32, first: u32, n_q: u32, d: u32, capacity: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }
${array(0, "rows", "f16", "read", native)}
@group(0) @binding(1) var<storage, read> norms: array<f32>;
${array(2, "queries", "f32", "read", native)}
@group(0) @binding(3) var<storage, read> query_norms: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> list: array<vec2<u32>>;
%% if filter
@group(0) @binding(6) var<storage, read> admitted: array<u32>;
%% endif

fn offer(q: u32, row: u32, dot: f32) {
    if q >= p.n_q || row >= p.n_rows {
        return;
    }
    let score = dot * norms[row] * query_norms[q];
    if !(score >= bitcast<f32>(atomicLoad(&state[4u * q + 1u]))) {
        return;
    }
    let id = p.first + row;
%% if filter
    if (admitted[id / 32u] >> (id % 32u) & 1u) == 0u {
        return;
    }
%% endif
    let at = atomicAdd(&state[4u * q], 1u);
    if at < p.capacity {
        list[q * p.capacity + at] = vec2<u32>(bitcast<u32>(score), id);
    }
}

@compute @workgroup_size(64)
fn score(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = ((group.x + group.y * groups.x) * 64u + lane) * 4u;
    if row >= p.n_rows {
        return;
    }
    let query = group.z * ${queries}u;
%% for r in range(4)
    let row${r} = min(row + ${r}u, p.n_rows - 1u) * d4();
%% for q in range(queries)
    var dot${r}_${q} = 0.0;
%% endfor
%% endfor
%% for q in range(queries)
    let query${q} = min(query + ${q}u, p.n_q - 1u) * d4();
%% endfor
    for (var c = 0u; c < d4(); c += 1u) {
%% for r in range(4)
        let r${r} = load_rows(row${r} + c);
%% endfor
%% for q in range(queries)
        let q${q} = load_queries(query${q} + c);
%% for r in range(4)
        dot${r}_${q} += dot(r${r}, q${q});
%% endfor
%% endfor
    }
%% for q in range(queries)
%% for r in range(4)
    offer(query + ${q}u, row + ${r}u, dot${r}_${q});
%% endfor
%% endfor
}
%% endif
%% if pass == "list"
struct Params { n: u32, n_q: u32 }
var<immediate> p: Params;
%% set next = namespace(binding=1)
@group(0) @binding(0) var<storage, read> scores: array<f32>;
%% if filter
@group(0) @binding(1) var<storage, read> admitted: array<u32>;
%% set next.binding = 2
%% endif
@group(0) @binding(${next.binding}) var<storage, read_write> state: array<u32>;
@group(0) @binding(${next.binding + 1}) var<storage, read_write> list: array<vec2<u32>>;

@compute @workgroup_size(64)
fn list_scores(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.n * p.n_q {
        return;
    }
    let column = i % p.n;
    var bits = bitcast<u32>(scores[i]);
%% if filter
    if ((admitted[column / 32u] >> (column % 32u)) & 1u) == 0u {
        bits = 0xff800000u; // -inf
    }
%% endif
    list[i] = vec2<u32>(bits, column);
    if column == 0u {
        state[4u * (i / p.n)] = p.n;
    }
}
%% endif
%% if pass in ["select", "sort"]
struct Params { k: u32, capacity: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> state: array<u32>;
@group(0) @binding(1) var<storage, read> list: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> best: array<vec2<u32>>;

// An integer with the order of the float whose bits these are.
fn ordered(bits: u32) -> u32 {
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}
%% endif
%% if pass == "select"
const GROUP: u32 = 256u;
var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> digit: u32;     // the digit found in this round
var<workgroup> wanted: u32;    // how many of the keys that share the prefix are still to be taken
var<workgroup> sharing: u32;   // how many keys share the prefix, the found digit included
var<workgroup> kept: atomic<u32>;

// Finds the `wanted`-th key from the top (or, with `lowest`, from the bottom) among the `n` candidates: of scores, or
// with `on_ids` of the ids of candidates whose score key is `score_key`. Digit by digit, eight bits at a time.
fn find(base: u32, n: u32, on_ids: bool, score_key: u32, lane: u32) -> u32 {
    var prefix = 0u;
    for (var shift = 32u; shift > 0u; ) {
        shift -= 8u;
        atomicStore(&histogram[lane], 0u);
        workgroupBarrier(); // the histogram is empty
        for (var i = lane; i < n; i += GROUP) {
            let candidate = list[base + i];
            let score = ordered(candidate.x);
            let key = select(score, ~candidate.y, on_ids); // the lowest id first
            let shared_prefix = shift == 24u || (key >> (shift + 8u)) == prefix;
            if shared_prefix && (!on_ids || score == score_key) {
                atomicAdd(&histogram[(key >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier(); // the histogram is complete
        if lane == 0u {
            var above = 0u;
            var d = 255u;
            loop {
                let here = atomicLoad(&histogram[d]);
                if above + here >= wanted || d == 0u {
                    sharing = here;
                    break;
                }
                above += here;
                d -= 1u;
            }
            wanted -= above;
            digit = d;
        }
        workgroupBarrier(); // digit, wanted and sharing are set
        prefix = (prefix << 8u) | digit;
    }
    return prefix;
}

@compute @workgroup_size(GROUP)
fn select_best(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let q = group.x;
    let base = q * p.capacity;
    let offered = state[4u * q];
    let n = min(offered, p.capacity);
    if lane == 0u {
        wanted = p.k;
        sharing = 0u;
        atomicStore(&kept, 0u);
    }
    workgroupBarrier(); // the shared variables are set, and every invocation has read the count
    if n <= p.k {
        for (var i = lane; i < n; i += GROUP) {
            best[base + i] = list[base + i];
        }
        return;
    }
    let score_key = find(base, n, false, 0u, lane);
    // `wanted` candidates with exactly this score are to be taken: if there are more, those with the lowest ids.
    var id_key = 0u;
    if sharing > wanted {
        workgroupBarrier(); // all have compared
        id_key = find(base, n, true, score_key, lane);
    }
    for (var i = lane; i < n; i += GROUP) {
        let candidate = list[base + i];
        let score = ordered(candidate.x);
        if score > score_key || (score == score_key && ~candidate.y >= id_key) {
            let at = atomicAdd(&kept, 1u);
            best[base + at] = candidate;
            if score == score_key {
                state[4u * q + 1u] = candidate.x; // the same value from whoever writes it
            }
        }
    }
    if lane == 0u {
        state[4u * q] = p.k;
        if offered > p.capacity {
            state[4u * q + 2u] = 1u;
        }
    }
}
%% endif
%% if pass == "sort"
const SIZE: u32 = ${size}u;
const GROUP: u32 = 256u;
var<workgroup> keys: array<u32, SIZE>;
var<workgroup> ids: array<u32, SIZE>;

@compute @workgroup_size(GROUP)
fn sort_best(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let q = group.x;
    let n = min(state[4u * q], p.k);
    for (var i = lane; i < SIZE; i += GROUP) {
        var key = 0u; // below every score
        var id = 0xffffffffu;
        if i < n {
            let candidate = list[q * p.capacity + i];
            key = ordered(candidate.x);
            id = candidate.y;
        }
        keys[i] = key;
        ids[i] = id;
    }
    for (var width = 2u; width <= SIZE; width *= 2u) {
        for (var distance = width / 2u; distance > 0u; distance /= 2u) {
            workgroupBarrier(); // the previous step is done
            for (var pair = lane; pair < SIZE / 2u; pair += GROUP) {
                let low = 2u * distance * (pair / distance) + pair % distance;
                let high = low + distance;
                let ordered_pair = keys[low] > keys[high] || (keys[low] == keys[high] && ids[low] < ids[high]);
                let descending = (low & width) == 0u;
                if ordered_pair != descending {
                    let key = keys[low];
                    keys[low] = keys[high];
                    keys[high] = key;
                    let id = ids[low];
                    ids[low] = ids[high];
                    ids[high] = id;
                }
            }
        }
    }
    workgroupBarrier(); // sorted
    for (var i = lane; i < p.k; i += GROUP) {
        let bits = keys[i];
        best[q * p.k + i] = vec2<u32>(select(~bits, bits ^ 0x80000000u, (bits >> 31u) == 1u), ids[i]);
    }
}
%% endif
