%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_group_sum.wgsl" import group_sum, who_inputs, who_value
// pool_backward.wgsl - the gradient of pooling: every row of a text gets the same
// Computes   dh[t,:] = p / l, p = d_out[i,:] or, with `normalize`, (d_out[i,:] - e (e . d_out[i,:])) / norm with e = m
//            / norm, norm = max(|m|, 1e-12), and e . d_out = 0 where |m| <= 1e-12; t one of the l rows of text i, m
//            their mean. Variant `pooling` = first: the first row alone, with l = 1; the others get zero
// Twins      src/ops/pool_backward/ (definition, reference), kernels/pool_backward.ptx
// Entry      pool_backward
//
// Shapes     means [n, d] f32, as pool gives them (absent without `normalize`); offsets [n + 1] u32; d_out [n, d] f32;
//            dh [t, d] f32
// Layout     row-major, 16-byte aligned
// Requires   d % 8 == 0; chunks = ceil(rows of the longest text / 32)
//
// Launch     n chunks workgroups of 64, chunk fastest, spread over x and y; each writes 32 rows of its text
// Mapping    invocation i owns elements 4 i .. 4 i + 3, then 4 (i + 64) .., and walks the rows
// Memory     with `normalize` 64 f32 of workgroup memory
// Sync       with `normalize` two group sums (_group_sum.wgsl)
// Limits     none beyond the defaults
//
// Work       t d stores; with `normalize` about 8 n d chunks
// Traffic    4 t d bytes written, 8 n d chunks read, mostly from cache
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   sums in a fixed tree; bound in error_bound of the twin
// Edges      an empty text writes nothing; NaN in a mean or in d_out -> NaN out
struct Params { d: u32, chunks: u32, texts: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

%% set first = 1 if normalize else 0
%% if normalize
${array(0, "means", "f32", "read", native)}
%% endif
@group(0) @binding(${first}) var<storage, read> offsets: array<u32>;
${array(first + 1, "d_out", "f32", "read", native)}
${array(first + 2, "dh", "f32", "read_write", native)}

const GROUP: u32 = 64u;
const ROWS: u32 = 32u;
const NORM_FLOOR: f32 = 1.0e-12;
%% if normalize
${group_sum(subgroups)}
%% endif

@compute @workgroup_size(GROUP)
fn pool_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
%% if normalize
${who_inputs(subgroups)}
%% endif
) {
    let piece = group.x + group.y * groups.x;
    let text = piece / p.chunks;
    if text >= p.texts {
        return;
    }
    let first = offsets[text];
    let count = offsets[text + 1u] - first;
    let start = piece % p.chunks * ROWS;
    if start >= count {
        return;
    }
    let end = min(start + ROWS, count);
%% if normalize
${who_value(subgroups)}
    var squares = 0.0;
    var products = 0.0;
    for (var c = lane; c < d4(); c += GROUP) {
        let m = load_means(text * d4() + c);
        squares += dot(m, m);
        products += dot(m, load_d_out(text * d4() + c));
    }
    let length = sqrt(group_sum(squares, who));
    let product = group_sum(products, who);
    // Below the floor the divisor is a constant.
    let norm = max(length, NORM_FLOOR);
    let s = select(0.0, product / norm, length > NORM_FLOOR);
%% endif
    for (var c = lane; c < d4(); c += GROUP) {
        var gradient = load_d_out(text * d4() + c);
%% if normalize
        gradient = (gradient - load_means(text * d4() + c) / norm * s) / norm;
%% endif
%% if pooling == "mean"
        gradient /= f32(count);
%% endif
        for (var t = start; t < end; t += 1u) {
%% if pooling == "first"
            store_dh((first + t) * d4() + c, select(vec4<f32>(), gradient, t == 0u));
%% else
            store_dh((first + t) * d4() + c, gradient);
%% endif
        }
    }
}
