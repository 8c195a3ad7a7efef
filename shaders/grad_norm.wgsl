%% from "_group_sum.wgsl" import group_sum, who_inputs, who_value
// grad_norm.wgsl - the sum of the squares of all gradients, in two stages
// Computes   grad_norm_chunks: sums[c] = sum of g^2 over elements 16,384 c .. + 16,383; grad_norm: out[0] = sum of sums,
//            out[1 .. 7] = 0
// Twins      src/ops/grad_norm.rs (definition, reference), kernels/grad_norm.ptx
// Entry      grad_norm_chunks for every binding of a gradient, grad_norm once (variant `stage`)
//
// Shapes     gradient [n] f32; sums [count] f32; out [8] f32: all of them declared as u32
// Layout     contiguous, 16-byte aligned, no aliasing
// Requires   n % 4 == 0
//
// Launch     grad_norm_chunks: `chunks` workgroups of 256, spread over x and y, where chunks beyond the end have the sum 0;
//            grad_norm: one workgroup of 256
// Mapping    invocation i takes elements 4 i .. 4 i + 3 of every 1,024 of its chunk; in the second stage sums i, i + 256, ..
// Memory     1,028 B of workgroup memory
// Sync       per sum: two barriers and one per halving (8), two with subgroups (_group_sum.wgsl)
// Limits     none beyond the defaults
//
// Work       2 n FLOP
// Traffic    4 n bytes
// Roofline   memory bound (0.5 FLOP/B)
// Measured   see benches/results
//
// Numerics   four sums of 16 squares an invocation, then trees; bound in error_bound of the twin
// Edges      WGSL lets a device assume that nothing is infinite or undefined, so that is found by the bits: what is not finite
//            has all bits of the exponent set, and makes the sum infinite
%% if stage == "chunks"
struct Params { n: u32, chunks: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> gradient: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;
%% else
struct Params { count: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> sums: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
%% endif

const GROUP: u32 = 256u;
const EXPONENT: u32 = 0x7f800000u;
${group_sum(subgroups)}
var<workgroup> bad: atomic<u32>;

fn is_bad(bits: u32) -> bool { return (bits & EXPONENT) == EXPONENT; }

// The bits of the sum, or infinity if anything was bad.
fn total(sum: f32, any: bool, who: Who) -> u32 {
    if who.lane == 0u {
        atomicStore(&bad, 0u);
    }
    workgroupBarrier(); // bad is cleared
    if any {
        atomicStore(&bad, 1u);
    }
    let all = bitcast<u32>(group_sum(sum, who)); // has a barrier behind the stores
    return select(all, EXPONENT, atomicLoad(&bad) != 0u || is_bad(all));
}

@compute @workgroup_size(GROUP)
%% if stage == "chunks"
fn grad_norm_chunks(
%% else
fn grad_norm(
%% endif
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
${who_inputs(subgroups)}
) {
${who_value(subgroups)}
    var any = false;
%% if stage == "chunks"
    let chunk = group.x + group.y * groups.x;
    if chunk >= p.chunks {
        return;
    }
    var squares = vec4<f32>();
    for (var i = 0u; i < 16u; i += 1u) {
        let at = 4096u * chunk + 256u * i + lane;
        if at < p.n / 4u {
            let bits = gradient[at];
            any = any || is_bad(bits.x) || is_bad(bits.y) || is_bad(bits.z) || is_bad(bits.w);
            let g = bitcast<vec4<f32>>(bits);
            squares += g * g;
        }
    }
    let sum = total((squares.x + squares.y) + (squares.z + squares.w), any, who);
    if lane == 0u {
        sums[chunk] = sum;
    }
%% else
    var sum = 0.0;
    for (var i = lane; i < p.count; i += GROUP) {
        any = any || is_bad(sums[i]);
        sum += bitcast<f32>(sums[i]);
    }
    let all = total(sum, any, who);
    if lane < 8u {
        out[lane] = select(0u, all, lane == 0u);
    }
%% endif
}
