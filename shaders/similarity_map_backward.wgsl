%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// similarity_map_backward.wgsl - from the gradients of similarity maps to those of token vectors
// Computes   d_tokens[i,:] = sum over all pairs that i's text is in, and over the other text's tokens j, of dM[i, j] (variant
//            `side` = queries) or dM[j, i] (documents) times others[j,:]
// Twins      src/ops/similarity_map_backward/ (definition, reference, launch), kernels/similarity_map_backward.ptx
// Entry      similarity_map_backward
//
// Shapes     others [t_o, d] f16 or f32 (variant `tokens`), the other side's token vectors; offsets [n + 1] u32, this
//            side's texts; partner_offsets [n + 1] u32: which entries of partners [p, 4] u32 are a text's: where the pair's
//            map begins, its columns, the first row and the number of tokens of the other text; d_maps f32; d_tokens [t, d]
//            f32
// Layout     row-major, 16-byte aligned; maps one behind the other
// Requires   d % 8 == 0; tiles = ceil(tokens of the longest text / 8), chunks = ceil(d / 256)
//
// Launch     texts tiles chunks workgroups of 64, chunks fastest, spread over x and y
// Mapping    a workgroup adds up eight tokens of a text, 256 elements of each; an invocation four side by side
// Memory     none
// Sync       none; no atomics
// Limits     each buffer within one binding
//
// Work       2 l_q l_c d FLOP per pair and side
// Traffic    the others' vectors once per eight own tokens and pair, maps once per chunk, mostly from cache; 4 t d bytes
//            written
// Roofline   compute bound
// Measured   see benches/results
//
// Numerics   one sum after the other in the order of the pairs; bound in error_bound of the twin
// Edges      a text in no pair gets zeros; empty partners add nothing
struct Params { d: u32, tiles: u32, chunks: u32, texts: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

${array(0, "others", tokens, "read", native)}
@group(0) @binding(1) var<storage, read> offsets: array<u32>;
@group(0) @binding(2) var<storage, read> partner_offsets: array<u32>;
@group(0) @binding(3) var<storage, read> partners: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> d_maps: array<f32>;
${array(5, "d_tokens", "f32", "read_write", native)}

const GROUP: u32 = 64u;
const TILE: u32 = 8u;

@compute @workgroup_size(GROUP)
fn similarity_map_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let piece = group.x + group.y * groups.x;
    let c = piece % p.chunks * GROUP + lane;
    let text = piece / p.chunks / p.tiles;
    if text >= p.texts || c >= d4() {
        return;
    }
    let token = piece / p.chunks % p.tiles * TILE;
    let first = offsets[text];
    let tokens = offsets[text + 1u] - first;
    if token >= tokens {
        return;
    }
    let count = min(TILE, tokens - token);
    var sums: array<vec4<f32>, TILE>;
    for (var pair = partner_offsets[text]; pair < partner_offsets[text + 1u]; pair += 1u) {
        // Where the map begins, its columns, the other text's first row and tokens.
        let partner = partners[pair];
        for (var j = 0u; j < partner.w; j += 1u) {
            let row = load_others((partner.z + j) * d4() + c);
            for (var t = 0u; t < TILE; t += 1u) {
                // Tokens beyond the text's last are taken for the last: nobody writes their sums.
                let i = token + min(t, count - 1u);
%% if side == "queries"
                sums[t] += d_maps[partner.x + i * partner.y + j] * row;
%% else
                sums[t] += d_maps[partner.x + j * partner.y + i] * row;
%% endif
            }
        }
    }
    for (var t = 0u; t < count; t += 1u) {
        store_d_tokens((first + token + t) * d4() + c, sums[t]);
    }
}
