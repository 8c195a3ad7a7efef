%% if native
enable f16; // of no use here, but every shader says which tier it is of
%% endif
// scatter_rows.wgsl - rows copied to places of their own
// Computes   out[places[i],:] = x[i,:], bit for bit; the other rows of out stay as they are
// Twins      src/ops/scatter_rows.rs (definition, reference), kernels/scatter_rows.ptx
// Entry      scatter_rows
//
// Shapes     x [n, units], out [m, units], elements of 16 bytes (8 f16 or 4 f32); places [n] u32
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing; the binding of out begins at row first_row
// Requires   places < m, no two the same (checked on the host)
//
// Launch     ceil(n units / 64) workgroups of 64, spread over x and y; rows whose places are not among first_row ..
//            end_row are passed over
// Mapping    one invocation copies 16 bytes
// Memory     none
// Sync       none; no two invocations write the same bytes, since places differ
// Limits     none beyond the defaults
//
// Work       none
// Traffic    32 n units + 4 n bytes
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   none: 32-bit words are copied, whatever they hold
// Edges      n = 0: not launched
struct Params { n: u32, units: u32, first_row: u32, end_row: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> places: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<u32>>;

@compute @workgroup_size(64)
fn scatter_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.n * p.units {
        return;
    }
    let place = places[i / p.units];
    if place < p.first_row || place >= p.end_row {
        return;
    }
    out[(place - p.first_row) * p.units + i % p.units] = x[i];
}
