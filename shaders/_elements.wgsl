<#
_elements.wgsl - storage arrays of f32 or f16, read and written four elements at a time.

`array(binding, name, type, access, native)` declares storage buffer `name` at `binding` and
  load_NAME(i)      -> vec4<f32>   elements 4 i .. 4 i + 3
  store_NAME(i, v)                 the same, rounded; only with access = "read_write"
for type = "f32"; type = "f16" with native f16 (needs `enable f16;` at the top of the file);
type = "f16" without (core WGSL), where pairs of f16 live in a u32. Either way an f16 takes two bytes.
#>
%% macro array(binding, name, type, access, native)
%% if type == "f32"
@group(0) @binding(${binding}) var<storage, ${access}> ${name}: array<vec4<f32>>;
fn load_${name}(i: u32) -> vec4<f32> { return ${name}[i]; }
%% elif native
@group(0) @binding(${binding}) var<storage, ${access}> ${name}: array<vec4<f16>>;
fn load_${name}(i: u32) -> vec4<f32> { return vec4<f32>(${name}[i]); }
%% else
@group(0) @binding(${binding}) var<storage, ${access}> ${name}: array<vec2<u32>>;
fn load_${name}(i: u32) -> vec4<f32> {
    let p = ${name}[i];
    return vec4<f32>(unpack2x16float(p.x), unpack2x16float(p.y));
}
%% endif
%% if access == "read_write"
%% if type == "f32"
fn store_${name}(i: u32, v: vec4<f32>) { ${name}[i] = v; }
%% elif native
fn store_${name}(i: u32, v: vec4<f32>) { ${name}[i] = vec4<f16>(v); }
%% else
fn store_${name}(i: u32, v: vec4<f32>) {
    ${name}[i] = vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw));
}
%% endif
%% endif
%% endmacro
