%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// weighted_pool.wgsl - weighted means of the pixels of pictures
// Computes   out[i,:] = sum of w[p] x[p,:] / sum of w[p] over the pixels p of picture i; zeros where the weights add up to 0
// Twins      src/ops/weighted_pool.rs (definition, reference), kernels/weighted_pool.ptx
// Entry      weighted_pool
//
// Shapes     x [r, c], out [n, c] f16 or f32 (variant `act`); weights [r] f32, none negative; offsets [n + 1] u32
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing
// Requires   c % 8 == 0; pieces = ceil(c / 16)
//
// Launch     n pieces workgroups of 64, piece fastest, spread over x and y
// Mapping    a workgroup adds up 16 channels of all pixels of its picture: invocation 4 g + u the four channels from 16 piece
//            + 4 u on of pixels g, g + 16, ..; invocation u < 4 finishes them
// Memory     64 vectors and 64 f32 of workgroup memory
// Sync       one barrier; the order of additions depends on the picture alone
// Limits     1,280 B of workgroup memory
//
// Work       r c products and sums
// Traffic    r c sizeof(x) + n c sizeof(x) + 4 r pieces bytes, the weights mostly from cache
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   chains of l / 16 pixels of l, then sixteen sums in order, one division; bound in error_bound of the twin
// Edges      n = 0: not launched; a picture without pixels gives zeros; NaN in -> NaN out
struct Params { c: u32, pieces: u32, pictures: u32 }
var<immediate> p: Params;

// Vectors of four in a pixel.
fn c4() -> u32 { return p.c / 4u; }

${array(0, "x", act, "read", native)}
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
${array(3, "out", act, "read_write", native)}

var<workgroup> sums: array<vec4<f32>, 64>;
var<workgroup> totals: array<f32, 64>;

@compute @workgroup_size(64)
fn weighted_pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = group.x + group.y * groups.x;
    let picture = at / p.pieces;
    if picture >= p.pictures {
        return;
    }
    let c = at % p.pieces * 4u + lane % 4u;
    let here = c < c4(); // the last piece may lack some
    let end = offsets[picture + 1u];
    var sum = vec4<f32>();
    var total = 0.0;
    for (var r = offsets[picture] + lane / 4u; r < end; r += 16u) {
        let w = weights[r];
        total += w;
        if here {
            sum += w * load_x(r * c4() + c);
        }
    }
    sums[lane] = sum;
    totals[lane] = total;
    workgroupBarrier(); // all sums are there
    if lane >= 4u || !here {
        return;
    }
    for (var k = lane + 4u; k < 64u; k += 4u) {
        sum += sums[k];
        total += totals[k];
    }
    if total > 0.0 {
        store_out(picture * c4() + c, sum / total);
    } else {
        store_out(picture * c4() + c, vec4<f32>());
    }
}
