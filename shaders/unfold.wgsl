%% if native
enable f16; // of no use here, but every shader says which tier it is of
%% endif
// unfold.wgsl - the 3 x 3 neighbourhood of every pixel as one row
// Computes   out[r,tap,:] = x[q,:], q the pixel beside r in the direction of the tap, line by line from above left; zeros
//            where that is outside of the picture. Bits are copied
// Twins      src/ops/unfold.rs (definition, reference), kernels/unfold.ptx
// Entry      unfold
//
// Shapes     x [n, units], out [n, 9, units], elements of 16 bytes (8 f16 or 4 f32); neighbours [n] u32: 16 times the width
//            of the pixel's picture, and 1, 2, 4, 8 where there is a pixel above, below, to the left, to the right
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing; the binding of out begins at row first_row
// Requires   nothing further
//
// Launch     ceil(9 m units / 64) workgroups of 64, spread over x and y, for the m rows from first_row to end_row
// Mapping    one invocation copies 16 bytes
// Memory     none
// Sync       none
// Limits     none beyond the defaults
//
// Work       none
// Traffic    144 n units bytes written, 16 n units + 4 n read (the other times from cache)
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   none: 32-bit words are copied, whatever they hold
// Edges      n = 0: not launched
struct Params { units: u32, first_row: u32, end_row: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> neighbours: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<u32>>;

@compute @workgroup_size(64)
fn unfold(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= (p.end_row - p.first_row) * 9u * p.units {
        return;
    }
    let tap = i / p.units % 9u;
    let row = p.first_row + i / p.units / 9u;
    let place = neighbours[row];
    // The bits of the neighbours that must be there.
    let vertical = select(select(0u, 1u, tap < 3u), 2u, tap >= 6u);
    let horizontal = select(select(0u, 4u, tap % 3u == 0u), 8u, tap % 3u == 2u);
    let needed = vertical | horizontal;
    if (place & needed) != needed {
        out[i] = vec4<u32>();
        return;
    }
    let width = place >> 4u;
    out[i] = x[(row + tap / 3u * width + tap % 3u - width - 1u) * p.units + i % p.units];
}
