%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_philox.wgsl" import philox
// attention_backward.wgsl - gradient of packed multi-head attention
// Computes   p = exp(scale q k^T - L), m = the mask's factor (0 or kept; 1 without dropout), ds = p (m (d_out v^T) - D):
//            side = mean: D = sum d_out out; side = queries: d_q = scale ds k; side = keys: d_k = scale ds^T q,
//            d_v = (p m)^T d_out
// Twin       src/ops/attention_backward/ (definition, reference), kernels/attention_backward.ptx
// Entries    attention_mean (side = mean), then attention_backward (queries, keys)
//
// Shapes     qkv, d_qkv [t, 3 d] f16 or f32 (variant `act`): queries, keys, values, each heads x head_dim; context, d_context
//            [t, d]; statistics [t, n_heads] f32: L; mean [t, n_heads] f32: D; offsets [n + 1] u32; work [n_blocks, 2] u32:
//            (text, first row) of each block of 16 rows; origins [t, 2] u32: position, number of the text (variant dropout)
// Layout     row-major, 16-byte aligned; outputs do not overlap inputs
// Requires   head_dim = 32 * parts; `heads` divides the number of heads
//
// Launch     mean: ceil(t n_heads / 64) workgroups of 64. Else one workgroup of 16 * parts * heads per block and group of
//            `heads` heads; from 16 parts on two of 8 * parts, each with half of the block's rows. All spread over x and y
// Mapping    mean: invocation = (row, head). Else invocation = (row of the block, 32 dimensions of the head, head of the
//            group): it keeps 32 elements of its query and of d_out, or of its key and value, and of what it returns, in
//            registers and walks the other side of its text
// Memory     parts = 1: none; else 16 partial sums per invocation (at most 15,360 B); with dropout and side = keys 4 bytes
//            per row and head
// Sync       parts = 1: none; else two barriers per 8 rows; with dropout and side = keys two more; no atomics, fixed order
// Limits     240 invocations at head_dim 480; 8 storage buffers with dropout, which is why D has a pass of its own
//
// Work       6 d sum of l^2 FLOP (queries), 8 d sum of l^2 (keys); with dropout l^2 H / 4 counters each
// Traffic    16 t d elements; the other side of a text is re-read from cache by its blocks
// Roofline   compute bound from about l = 64 on
// Measured   see benches/results
//
// Numerics   f32 throughout; bound in error_bound of the twin
// Edges      an empty text has no block
//
//   for each 8 rows of the other side
//     queries of keys: draw their masks; if the head is spread over invocations, exchange partial sums of s and g
//     for each of them:  s = scale q . k, g = d_out . v;  p = exp(s - L);  ds = p (m g - D)
//                        sums += ds x; keys: sums of values += m p y
%% if side == "mean"
struct Params { rows: u32, n_heads: u32, head_dim: u32 }
var<immediate> p: Params;

${array(0, "context", act, "read", native)}
${array(1, "d_context", act, "read", native)}
@group(0) @binding(2) var<storage, read_write> mean: array<f32>;

@compute @workgroup_size(64)
fn attention_mean(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.rows * p.n_heads {
        return;
    }
    // Rows of context are heads one behind the other.
    let fours = p.head_dim / 4u;
    var sum = 0.0;
    for (var c = i * fours; c < (i + 1u) * fours; c += 1u) {
        sum += dot(load_context(c), load_d_context(c));
    }
    mean[i] = sum;
}
%% else
%% set of_queries = side == "queries"
%% set rows = 16 if parts < 16 else 8
%% set lanes = rows * parts * heads
%% set drawn = dropout and not of_queries
struct Params {
    n_blocks: u32, n_heads: u32, head_dim: u32, scale: f32, threshold: u32, kept: f32, key_0: u32, key_1: u32
}
var<immediate> p: Params;

// Vectors of four in a row of `d_context`.
fn d4() -> u32 { return p.n_heads * p.head_dim / 4u; }

%% set next = 6 if dropout else 5
${array(0, "qkv", act, "read", native)}
@group(0) @binding(1) var<storage, read> statistics: array<f32>;
${array(2, "d_context", act, "read", native)}
@group(0) @binding(3) var<storage, read> offsets: array<u32>;
@group(0) @binding(4) var<storage, read> work: array<u32>;
%% if dropout
@group(0) @binding(5) var<storage, read> origins: array<vec2<u32>>;
${philox()}
%% endif
@group(0) @binding(${next}) var<storage, read_write> mean: array<f32>;
${array(next + 1, "d_qkv", act, "read_write", native)}

const ROWS: u32 = ${rows}u;
const SPLITS: u32 = ${16 // rows}u; // workgroups that share a block
const PARTS: u32 = ${parts}u;
const HEADS: u32 = ${heads}u;
%% if parts > 1
const LANES: u32 = ${lanes}u;
var<workgroup> partial: array<f32, ${lanes * 16}>; // [product of two][row of 8][invocation]
%% endif
%% if drawn
var<workgroup> drawn: array<u32, ${rows * heads}>; // [head][row]
%% endif

@compute @workgroup_size(${lanes})
fn attention_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let job = group.x + group.y * groups.x;
    let head_groups = p.n_heads / HEADS;
    if job >= p.n_blocks * SPLITS * head_groups {
        return;
    }
    let block = job / (SPLITS * head_groups);
    let text = work[2u * block];
    let first = offsets[text];
    let end = offsets[text + 1u];
    let row_of_block = (job / head_groups) % SPLITS * ROWS + lane % ROWS;
    let wanted = work[2u * block + 1u] + row_of_block;
    let row = min(wanted, end - 1u); // rows beyond the text repeat its last one and are not stored
    let part = (lane / ROWS) % PARTS;
    let head_of_group = lane / (ROWS * PARTS);
    let head = (job % head_groups) * HEADS + head_of_group;
    let column = (head * PARTS + part) * 8u; // in vec4

    // Of the own row: query and d_out, or key and value.
%% for i in range(8)
%% if of_queries
    let a${i} = load_qkv(row * 3u * d4() + column + ${i}u) * p.scale;
    let b${i} = load_d_context(row * d4() + column + ${i}u);
%% else
    let a${i} = load_qkv(row * 3u * d4() + d4() + column + ${i}u) * p.scale;
    let b${i} = load_qkv(row * 3u * d4() + 2u * d4() + column + ${i}u);
    var values${i} = vec4<f32>();
%% endif
    var sum${i} = vec4<f32>();
%% endfor
%% if of_queries
    let statistic = statistics[row * p.n_heads + head];
    let own_mean = mean[row * p.n_heads + head];
%% endif
%% if dropout
    let number = origins[first].y;
    let key = vec2<u32>(p.key_0, p.key_1);
%% if of_queries
    var words = vec4<u32>();
%% endif
%% endif
%% macro load(x, y)
%% set load_y = "load_qkv" if of_queries else "load_d_context"
%% if of_queries
            let at_x = other * 3u * d4() + d4() + column;
            let at_y = at_x + d4();
%% else
            let at_x = other * 3u * d4() + column;
            let at_y = other * d4() + column;
%% endif
%% for i in range(8)
%% if x
            let x${i} = load_qkv(at_x + ${i}u);
%% endif
%% if y
            let y${i} = ${load_y}(at_y + ${i}u);
%% endif
%% endfor
%% endmacro
%% macro products()
            var s = 0.0;
            var g = 0.0;
%% for i in range(8)
            s += dot(a${i}, x${i});
            g += dot(b${i}, y${i});
%% endfor
%% endmacro
    for (var start = first; start < end; start += 8u) {
        let stop = min(start + 8u, end);
%% if drawn
        // A counter has four neighbouring keys: each of their rows draws for two of the eight queries. Bit 4 (j / 4) + w.
        if part == 0u {
            let counter = vec4<u32>((wanted - first) / 4u, start - first + lane % 4u, number, head);
            let words0 = philox(key, counter);
            let words1 = philox(key, counter + vec4<u32>(0u, 4u, 0u, 0u));
            let bits = vec4<u32>(1u, 2u, 4u, 8u);
            let bits0 = select(vec4<u32>(), bits, words0 < vec4<u32>(p.threshold));
            let bits1 = select(vec4<u32>(), bits, words1 < vec4<u32>(p.threshold));
            drawn[head_of_group * ROWS + lane % ROWS] = dot(bits0 + 16u * bits1, vec4<u32>(1u));
        }
%% endif
%% if parts > 1
        // The parts of a head exchange their partial sums.
        for (var other = start; other < stop; other += 1u) {
            ${load(true, true)}
            ${products()}
            partial[(other - start) * LANES + lane] = s;
            partial[(8u + other - start) * LANES + lane] = g;
        }
        let mine = lane - part * ROWS;
%% endif
%% if parts > 1 or drawn
        workgroupBarrier(); // all partial sums and masks are there
%% endif
        for (var other = start; other < stop; other += 1u) {
            let j = other - start;
%% if parts > 1
            ${load(true, not of_queries)}
            var s = 0.0;
            var g = 0.0;
            for (var from_part = 0u; from_part < PARTS; from_part += 1u) {
                s += partial[j * LANES + mine + from_part * ROWS];
                g += partial[(8u + j) * LANES + mine + from_part * ROWS];
            }
%% else
            ${load(true, true)}
            ${products()}
%% endif
%% if drawn
            let bits = drawn[head_of_group * ROWS + lane % ROWS / 4u * 4u + j % 4u];
            let m = select(p.kept, 0.0, ((bits >> (j / 4u * 4u + lane % 4u)) & 1u) == 1u);
%% elif dropout
            if j % 4u == 0u {
                words = philox(key, vec4<u32>((other - first) / 4u, row - first, number, head));
            }
            let m = select(p.kept, 0.0, words[j % 4u] < p.threshold);
%% endif
%% if of_queries
            let weight = exp(s - statistic);
            let slope = weight * (g ${"* m" if dropout else ""} - own_mean);
%% else
            let weight = exp(s - statistics[other * p.n_heads + head]);
            let slope = weight * (g ${"* m" if dropout else ""} - mean[other * p.n_heads + head]);
            let kept = weight ${"* m" if dropout else ""};
%% endif
%% for i in range(8)
            sum${i} += slope * x${i};
%% if not of_queries
            values${i} += kept * y${i};
%% endif
%% endfor
        }
%% if parts > 1 or drawn
        workgroupBarrier(); // all have read them
%% endif
    }
    if wanted < end {
%% for i in range(8)
%% if of_queries
        store_d_qkv(row * 3u * d4() + column + ${i}u, sum${i} * p.scale);
%% else
        store_d_qkv(row * 3u * d4() + d4() + column + ${i}u, sum${i} * p.scale);
        store_d_qkv(row * 3u * d4() + 2u * d4() + column + ${i}u, values${i});
%% endif
%% endfor
    }
}
%% endif
