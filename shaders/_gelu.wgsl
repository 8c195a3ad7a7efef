<#
_gelu.wgsl - the error function, for GELU and its slope.

`erf()` declares erf for four numbers by the rational fit of src/ops/matmul/; all terms are positive, nothing cancels.
#>
%% macro erf()
fn erf(v: vec4<f32>) -> vec4<f32> {
    let x = clamp(v, vec4<f32>(-3.92), vec4<f32>(3.92));
    let t = x * x;
    var num = fma(t, vec4<f32>(2.0347384e-6), vec4<f32>(0.00028747795));
    num = fma(t, num, vec4<f32>(0.0038682814));
    num = fma(t, num, vec4<f32>(0.053060345));
    num = fma(t, num, vec4<f32>(0.19276305));
    num = fma(t, num, vec4<f32>(1.128379));
    var den = fma(t, vec4<f32>(3.8070597e-5), vec4<f32>(0.0011881031));
    den = fma(t, den, vec4<f32>(0.015172207));
    den = fma(t, den, vec4<f32>(0.1150842));
    den = fma(t, den, vec4<f32>(0.50416344));
    den = fma(t, den, vec4<f32>(1.0));
    return x * num / den;
}
%% endmacro
