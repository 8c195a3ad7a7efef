%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// pair_dot.wgsl - products of listed pairs of rows
// Computes   scores[p] = sum_k a[i,k] * b[j,k], (i, j) = pairs[p]
// Twins      src/ops/pair_dot.rs (definition, reference), kernels/pair_dot.ptx
// Entry      pair_dot
//
// Shapes     a [n_a, d], b [n_b, d] f16 or f32 (variant `rows`); pairs [count, 2] u32 of (i, j); scores [count] f32
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing of scores; the binding of b begins at row
//            first_row
// Requires   d % 8 == 0; i < n_a, j < n_b (checked on the host)
//
// Launch     ceil(count / 8) workgroups of 64, spread over x and y; pairs whose j is not among first_row .. end_row are
//            passed over
// Mapping    eight invocations a pair; invocation i of them takes elements 4 i .. 4 i + 3, then 4 (i + 8) .. and so on
// Memory     64 f32 of workgroup memory for sums
// Sync       one barrier, before the first invocation of a pair adds up the eight
// Limits     none beyond the defaults
//
// Work       2 count d FLOP
// Traffic    count (2 d sizeof(rows) + 12) bytes, if every pair has rows of its own
// Roofline   memory bound (0.5 FLOP/B in f16)
// Measured   see benches/results
//
// Numerics   32 partial sums, added in fixed order; bound in error_bound of the twin
// Edges      count = 0: not launched
struct Params { count: u32, d: u32, first_row: u32, end_row: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

${array(0, "a", rows, "read", native)}
${array(1, "b", rows, "read", native)}
@group(0) @binding(2) var<storage, read> pairs: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> scores: array<f32>;

const GROUP: u32 = 64u;
const SHARE: u32 = 8u; // invocations of a pair
var<workgroup> partial: array<f32, GROUP>;

@compute @workgroup_size(GROUP)
fn pair_dot(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pair = (group.x + group.y * groups.x) * (GROUP / SHARE) + lane / SHARE;
    // All invocations reach the barrier, those without a pair too.
    var rows = vec2<u32>();
    var ours = pair < p.count;
    if ours {
        rows = pairs[pair];
        ours = rows.y >= p.first_row && rows.y < p.end_row;
    }
    var sum = vec4<f32>();
    if ours {
        let a_row = rows.x * d4();
        let b_row = (rows.y - p.first_row) * d4();
        for (var c = lane % SHARE; c < d4(); c += SHARE) {
            sum += load_a(a_row + c) * load_b(b_row + c);
        }
    }
    partial[lane] = sum.x + sum.y + sum.z + sum.w;
    workgroupBarrier(); // the shares of all pairs are in partial[]
    if ours && lane % SHARE == 0u {
        var total = partial[lane];
        for (var i = 1u; i < SHARE; i += 1u) {
            total += partial[lane + i];
        }
        scores[pair] = total;
    }
}
