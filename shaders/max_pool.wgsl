%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// max_pool.wgsl - the largest of each 2 x 2 pixels of pictures, after a factor, a summand and a relu
// Computes   y[s,:] = max over the pixels p of square s of max(scale x[p,:] + shift, 0)
// Twins      src/ops/max_pool.rs (definition, reference), kernels/max_pool.ptx
// Entry      max_pool
//
// Shapes     x [r, c], y [n, c] f16 or f32 (variant `act`); scale, shift [c] f32; squares [n, 2] u32: the first pixel p of a
//            square, and the pixels w of a line of its picture; the others are p + 1, p + w, p + w + 1
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing; the binding of x begins at pixel first_row
// Requires   c % 8 == 0; pixels of squares first_row .. first_row + r (seen to on the host)
//
// Launch     ceil(n c / 256) workgroups of 64, spread over x and y
// Mapping    one invocation has 4 channels of a square
// Memory     none
// Sync       none
// Limits     none beyond the defaults
//
// Work       4 n c products, sums and maxima
// Traffic    5 n c sizeof(x) + 8 n + 8 c bytes
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   one fma per element, which a device may round as a product and a sum; bound in error_bound of the twin
// Edges      n = 0: not launched; NaN: no promise
struct Params { n: u32, c: u32, first_row: u32 }
var<immediate> p: Params;

// Vectors of four in a pixel.
fn c4() -> u32 { return p.c / 4u; }

${array(0, "x", act, "read", native)}
${array(1, "scale", "f32", "read", native)}
${array(2, "shift", "f32", "read", native)}
@group(0) @binding(3) var<storage, read> squares: array<vec2<u32>>;
${array(4, "y", act, "read_write", native)}

@compute @workgroup_size(64)
fn max_pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.n * c4() {
        return;
    }
    let square = squares[i / c4()];
    let c = i % c4();
    let first = square.x - p.first_row;
    var pixels = array<u32, 4>(first, first + 1u, first + square.y, first + square.y + 1u);
    let scale_here = load_scale(c);
    let shift_here = load_shift(c);
    var largest = vec4<f32>();
    for (var k = 0u; k < 4u; k += 1u) {
        largest = max(largest, fma(load_x(pixels[k] * c4() + c), scale_here, shift_here));
    }
    store_y(i, largest);
}
