%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_philox.wgsl" import philox
// attention.wgsl - packed multi-head attention with an online softmax
// Computes   out = softmax(scale q k^T) v, per text and head
// Twin       src/ops/attention/ (definition, reference), kernels/attention.ptx
// Entries    attention; attention_saving (variant saving): what training adds; with variant dropout a probability is dropped
//            if word key % 4 of Philox4x32-10 for (key / 4, query, number of the text, head) is below the threshold, after
//            the softmax, and the others grow by `kept`
//
// Shapes     qkv [t, 3 d] f16 or f32 (variant `act`): queries, keys, values, each heads x head_dim;
//            offsets [n + 1] u32; work [n_blocks, 2] u32: (text, first row) of each block of 16 query rows;
//            out [t, d] f16 or f32; saving: statistics [t, n_heads] f32, the log-sum-exp of every row; origins [t, 2] u32:
//            position of a token in its text, number of the text
// Layout     row-major, 16-byte aligned
// Requires   head_dim = 32 * parts; `heads` divides the number of heads
//
// Launch     one workgroup of 16 * parts * heads per block and group of `heads` heads, spread over x and y; beyond 16
//            parts two of 8 * parts, each with half of the block's rows, for no adapter has to take more than 256
// Mapping    invocation = (row of the block, 32 dimensions of the head, head of the group): it keeps 32 elements of
//            its query and of its output in registers and walks the keys of its text
// Memory     parts = 1: none; else 8 partial scores per invocation (at most 8,192 B)
// Sync       parts = 1: none; else two barriers per 8 keys
// Limits     256 invocations at head_dim 512, 192 at 384 and 768
//
// Work       4 d sum of l^2 FLOP
// Traffic    4 t d elements; keys and values of a text are re-read from cache by its blocks
// Roofline   AI = l / sizeof: compute bound from about l = 128 on
// Measured   see benches/results
//
// Numerics   f32 scores, maximum and sums; masked keys of the last step get probability 0 by index;
//            bound in error_bound of the twin
// Edges      an empty text has no block; a finite -3e38 stands for minus infinity, which WGSL may assume away
//
//   m = -3e38, l = 0, acc = 0
//   for each 8 keys:  s_j = scale q . k_j  (partial sums exchanged if the head is spread over invocations)
//                     m' = max(m, s_j);  acc, l *= exp(m - m');  p_j = exp(s_j - m')
//                     l += sum p_j;  acc += sum p_j v_j;  m = m'
//   out = acc / l
%% if saving
struct Params {
    n_blocks: u32, n_heads: u32, head_dim: u32, scale: f32, threshold: u32, kept: f32, key_0: u32, key_1: u32
}
%% else
struct Params { n_blocks: u32, n_heads: u32, head_dim: u32, scale: f32 }
%% endif
var<immediate> p: Params;

// Vectors of four in a row of `out`.
fn d4() -> u32 { return p.n_heads * p.head_dim / 4u; }

${array(0, "qkv", act, "read", native)}
@group(0) @binding(1) var<storage, read> offsets: array<u32>;
@group(0) @binding(2) var<storage, read> work: array<u32>;
%% set out = 4 if dropout else 3
%% if dropout
@group(0) @binding(3) var<storage, read> origins: array<vec2<u32>>;
${philox()}
%% endif
${array(out, "out", act, "read_write", native)}
%% if saving
@group(0) @binding(${out + 1}) var<storage, read_write> statistics: array<f32>;
%% endif

%% set rows = 16 if parts <= 16 else 8
const ROWS: u32 = ${rows}u;
const SPLITS: u32 = ${16 // rows}u; // workgroups that share a block
const PARTS: u32 = ${parts}u;
const HEADS: u32 = ${heads}u;
const LOWEST: f32 = -3.0e38;
%% if parts > 1
var<workgroup> partial: array<f32, ${rows * parts * heads * 8}>; // [key of 8][invocation]
%% endif

@compute @workgroup_size(${rows * parts * heads})
fn ${"attention_saving" if saving else "attention"}(
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
    let head = (job % head_groups) * HEADS + lane / (ROWS * PARTS);
    let column = (head * PARTS + part) * 8u; // in vec4

%% for i in range(8)
    let q${i} = load_qkv(row * 3u * d4() + column + ${i}u) * p.scale;
    var acc${i} = vec4<f32>();
%% endfor
%% if dropout
    let number = origins[first].y;
%% endif
    var highest = LOWEST;
    var total = 0.0;
    for (var start = first; start < end; start += 8u) {
%% for j in range(8)
        let key${j} = min(start + ${j}u, end - 1u) * 3u * d4() + d4() + column;
        var s${j} = 0.0;
%% for i in range(8)
        s${j} += dot(q${i}, load_qkv(key${j} + ${i}u));
%% endfor
%% endfor
%% if parts > 1
        // The parts of a head exchange their partial scores.
%% for j in range(8)
        partial[${j * rows * parts * heads}u + lane] = s${j};
%% endfor
        workgroupBarrier(); // all partial scores are there
        let mine = lane - part * ROWS;
%% for j in range(8)
        s${j} = 0.0;
%% endfor
        for (var other = 0u; other < PARTS; other += 1u) {
%% for j in range(8)
            s${j} += partial[${j * rows * parts * heads}u + mine + other * ROWS];
%% endfor
        }
        workgroupBarrier(); // all have read them
%% endif
        var top = highest;
%% for j in range(8)
        s${j} = select(LOWEST, s${j}, start + ${j}u < end);
        top = max(top, s${j});
%% endfor
        let shrink = exp(highest - top);
        highest = top;
        total *= shrink;
%% for i in range(8)
        acc${i} *= shrink;
%% endfor
%% if dropout
        let key = vec2<u32>(p.key_0, p.key_1);
        let words0 = philox(key, vec4<u32>((start - first) / 4u, row - first, number, head));
        let words1 = philox(key, vec4<u32>((start - first) / 4u + 1u, row - first, number, head));
%% endif
%% for j in range(8)
        let p${j} = select(0.0, exp(s${j} - top), start + ${j}u < end);
        total += p${j};
%% set weight = "w" ~ j if dropout else "p" ~ j
%% if dropout
        let w${j} = select(p${j}, 0.0, words${j // 4}[${j % 4}] < p.threshold);
%% endif
%% for i in range(8)
        acc${i} += ${weight} * load_qkv(key${j} + d4() + ${i}u);
%% endfor
%% endfor
    }
    if wanted < end {
%% if dropout
        let factor = p.kept / total;
%% endif
%% for i in range(8)
        store_out(row * d4() + column + ${i}u, acc${i} ${"* factor" if dropout else "/ total"});
%% endfor
%% if saving
        if part == 0u {
            statistics[row * p.n_heads + head] = highest + log(total);
        }
%% endif
    }
}
