%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_group_sum.wgsl" import group_sum, who_inputs, who_value
// weighted_pool_backward.wgsl - the gradient of weighted means in the pixels of pictures
// Computes   dx[p,:] = w[p] / (sum of w over picture i) d_out[i,:], p one of its pixels; zeros where the weights add up to 0
// Twins      src/ops/weighted_pool_backward.rs (definition, reference), kernels/weighted_pool_backward.ptx
// Entry      weighted_pool_backward
//
// Shapes     d_out [n, c], dx [r, c] f16 or f32 (variant `act`); weights [r] f32, none negative; offsets [n + 1] u32
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing
// Requires   c % 8 == 0; chunks = ceil(pixels of the largest picture / 64)
//
// Launch     n chunks workgroups of 64, chunk fastest, spread over x and y; each writes 64 pixels of its picture
// Mapping    invocation i takes vectors i, i + 64, .. of the chunk's channels, pixel after pixel
// Memory     64 f32 of workgroup memory
// Sync       one group sum (_group_sum.wgsl)
// Limits     none beyond the defaults
//
// Work       r c products, r c / 4 divisions
// Traffic    r c sizeof(dx) bytes written; 4 r chunks and d_out read, mostly from cache
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   a sum in a fixed tree, one division, one product; bound in error_bound of the twin
// Edges      n = 0: not launched; a picture without pixels writes nothing; NaN in d_out -> NaN out
struct Params { c: u32, chunks: u32, pictures: u32 }
var<immediate> p: Params;

// Vectors of four in a pixel.
fn c4() -> u32 { return p.c / 4u; }

${array(0, "d_out", act, "read", native)}
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
${array(3, "dx", act, "read_write", native)}

const GROUP: u32 = 64u;
const CHUNK: u32 = 64u;
${group_sum(subgroups)}
@compute @workgroup_size(GROUP)
fn weighted_pool_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
${who_inputs(subgroups)}
) {
    let piece = group.x + group.y * groups.x;
    let picture = piece / p.chunks;
    if picture >= p.pictures {
        return;
    }
    let first = offsets[picture];
    let count = offsets[picture + 1u] - first;
    let start = piece % p.chunks * CHUNK;
    if start >= count {
        return;
    }
    let end = min(start + CHUNK, count);
${who_value(subgroups)}
    var weight = 0.0;
    for (var r = lane; r < count; r += GROUP) {
        weight += weights[first + r];
    }
    let total = group_sum(weight, who);
    for (var i = start * c4() + lane; i < end * c4(); i += GROUP) {
        let r = i / c4();
        var share = 0.0;
        if total > 0.0 {
            share = weights[first + r] / total;
        }
        store_dx(first * c4() + i, share * load_d_out(picture * c4() + i % c4()));
    }
}
