%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// adamw.wgsl - one step of AdamW over a flat buffer, with clipping and unscaling
// Computes   g = gradient * factor, m = m + rest1 (g - m), v = beta2 v + (rest2 g) g,
//            w = w keep - (step_size m) / (sqrt(v) / root + eps), and a rounded copy of w; nothing if norm[0] is not finite.
//            factor = gradient_factor * (max_norm / length if length > max_norm, else 1),
//            length = sqrt(norm[0]) * gradient_factor + 1e-6
// Twins      src/ops/adamw/ (definition, reference), kernels/adamw.ptx
// Entry      adamw
//
// Shapes     gradient, first (m), second (v), master (w) [n] f32; working [n] f16 or f32, or absent (variant `working`);
//            norm [8] f32, declared as u32, of which the first is the sum of squares of all gradients, this and others
// Layout     contiguous, 16-byte aligned, no aliasing
// Requires   n % 4 == 0
//
// Launch     ceil(n / 256) workgroups of 64, spread over x and y
// Mapping    invocation i of all takes elements 4 i .. 4 i + 3
// Memory     none
// Sync       none
// Limits     none beyond the defaults
//
// Work       about 15 n FLOP
// Traffic    28 n bytes, and n sizeof(working) more
// Roofline   memory bound (0.5 FLOP/B)
// Measured   see benches/results
//
// Numerics   in the order above; bound in error_bound of the twin
// Edges      a norm that is infinite or undefined, which shows in the bits of its exponent, leaves everything as it is;
//            max_norm is finite
struct Params {
    n: u32,
    gradient_factor: f32,
    max_norm: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    keep: f32,
    step_size: f32,
    root: f32,
    eps: f32,
}
var<immediate> p: Params;

${array(0, "gradient", "f32", "read", native)}
@group(0) @binding(1) var<storage, read> norm: array<u32>;
${array(2, "first", "f32", "read_write", native)}
${array(3, "second", "f32", "read_write", native)}
${array(4, "master", "f32", "read_write", native)}
%% if working != "none"
${array(5, "working", working, "read_write", native)}
%% endif

const GROUP: u32 = 64u;

@compute @workgroup_size(GROUP)
fn adamw(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * GROUP + lane;
    if i >= p.n / 4u || (norm[0] & 0x7f800000u) == 0x7f800000u {
        return;
    }
    let length = sqrt(bitcast<f32>(norm[0])) * p.gradient_factor + 1e-6;
    var factor = p.gradient_factor;
    if length > p.max_norm {
        factor *= p.max_norm / length;
    }
    let g = load_gradient(i) * factor;
    var m = load_first(i);
    m += p.rest1 * (g - m);
    let v = p.beta2 * load_second(i) + p.rest2 * g * g;
    let w = load_master(i) * p.keep - p.step_size * m / (sqrt(v) / p.root + p.eps);
    store_first(i, m);
    store_second(i, v);
    store_master(i, w);
%% if working != "none"
    store_working(i, w);
%% endif
}
