%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_group_sum.wgsl" import group_sum, who_inputs, who_value
// normalize_rows_backward.wgsl - the gradient of rows that were scaled to unit length
// Computes   dx[i,:] = (dy[i,:] - y (y . dy[i,:])) / norm,  y = x[i,:] / norm,  norm = |x[i,:]|; where norm < 1e-12,
//            dx[i,:] = dy[i,:] / 1e-12
// Twins      src/ops/normalize_rows_backward.rs (definition, reference), kernels/normalize_rows_backward.ptx
// Entry      normalize_rows_backward
//
// Shapes     x, dy, dx [n, d] f32
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing
// Requires   d % 8 == 0
//
// Launch     one workgroup of 64 per row, spread over x and y
// Mapping    invocation i takes elements 4 i .. 4 i + 3, then 4 (i + 64) .. and so on
// Memory     64 f32 of workgroup memory for the sums
// Sync       two group sums (_group_sum.wgsl)
// Limits     none beyond the defaults
//
// Work       9 n d FLOP
// Traffic    12 n d bytes; both rows are read again from cache
// Roofline   memory bound (0.75 FLOP/B)
// Measured   see benches/results
//
// Numerics   sums in a fixed tree, one root, three divisions; bound in error_bound of the twin
// Edges      n = 0: not launched; a row shorter than 1e-12 has a constant divisor; NaN: no promise
//
//   squares = group_sum(x^2), product = group_sum(x dy)
//   norm = sqrt(squares); s = product / norm
//   dx = (dy - x / norm s) / norm                     x and dy read again
//   below the floor: norm = 1e-12, s = 0
struct Params { n: u32, d: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

${array(0, "x", "f32", "read", native)}
${array(1, "dy", "f32", "read", native)}
${array(2, "dx", "f32", "read_write", native)}

const GROUP: u32 = 64u;
const NORM_FLOOR: f32 = 1.0e-12;
${group_sum(subgroups)}
@compute @workgroup_size(GROUP)
fn normalize_rows_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
${who_inputs(subgroups)}
) {
    let row = group.x + group.y * groups.x;
    if row >= p.n {
        return;
    }
${who_value(subgroups)}
    let base = row * d4();
    var squares = 0.0;
    var products = 0.0;
    for (var c = lane; c < d4(); c += GROUP) {
        let v = load_x(base + c);
        squares += dot(v, v);
        products += dot(v, load_dy(base + c));
    }
    let length = sqrt(group_sum(squares, who));
    let product = group_sum(products, who);
    // Below the floor the divisor is a constant.
    let norm = max(length, NORM_FLOOR);
    let s = select(product / norm, 0.0, length < NORM_FLOOR);
    for (var c = lane; c < d4(); c += GROUP) {
        store_dx(base + c, (load_dy(base + c) - load_x(base + c) / norm * s) / norm);
    }
}
