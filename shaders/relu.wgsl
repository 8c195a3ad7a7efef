%% if native
enable f16; // of no use here, but every shader says which tier it is of
%% endif
// relu.wgsl - what is not above 0 becomes 0, in place
// Computes   x = x where gate > 0, else 0; the gate is x itself or, with variant `gated`, another array
// Twins      src/ops/relu.rs (definition, reference), kernels/relu.ptx
// Entry      relu
//
// Shapes     x, gate [n] (gate absent without `gated`), units of 16 bytes (variant `act`: 8 f16 or 4 f32)
// Layout     contiguous, 16-byte aligned, no aliasing
// Requires   nothing else
//
// Launch     ceil(n / 64) workgroups of 64, spread over x and y
// Mapping    one invocation has 16 bytes
// Memory     none
// Sync       none
// Limits     none beyond the defaults
//
// Work       one comparison per element
// Traffic    32 n bytes, gated 48 n
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   none: numbers are compared as the words that they are, so that what stays keeps its bits, whatever a device
//            does with subnormal numbers. Above 0 and no NaN are 1 .. infinity, which is 0x7c00 in f16, 0x7f800000 in f32
// Edges      n = 0: not launched; where the gate is NaN or -0 the result is +0
struct Params { n: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<vec4<u32>>;
%% if gated
@group(0) @binding(1) var<storage, read> gate: array<vec4<u32>>;
%% endif

// `v` where `g` is above 0.
fn kept(v: vec4<u32>, g: vec4<u32>) -> vec4<u32> {
    let none = vec4<u32>();
%% if act == "f16"
    let first = (g & vec4<u32>(0xffffu)) - vec4<u32>(1u) < vec4<u32>(0x7c00u);
    let second = (g >> vec4<u32>(16u)) - vec4<u32>(1u) < vec4<u32>(0x7c00u);
    return select(none, v & vec4<u32>(0xffffu), first) | select(none, v & vec4<u32>(0xffff0000u), second);
%% else
    return select(none, v, g - vec4<u32>(1u) < vec4<u32>(0x7f800000u));
%% endif
}

@compute @workgroup_size(64)
fn relu(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.n {
        return;
    }
    let v = x[i];
    x[i] = kept(v, ${"gate[i]" if gated else "v"});
}
