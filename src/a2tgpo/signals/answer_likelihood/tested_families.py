"""Name the model families whose answers the tests have seen scored alike from a cache and from rows."""

_NAMES = """
afmoe apertus arcee aria_text axk1 bailing_hybrid bamba beam bert-generation biogpt bitnet codegen cohere
cohere2 cohere2_moe ctrl cwm deepseek_v2 deepseek_v3 diffllama dots1 ernie4_5 ernie4_5_moe exaone4 exaone_moe
falcon falcon_h1 flex_olmo flint gemma gemma2 gemma3_text gemma4_text gemma4_unified_text glm glm4 glm4_moe
glm4_moe_lite gpt-sw3 gpt2 gpt_bigcode gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe
granitemoe_swa granitemoehybrid granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3
hyperclovax internlm3 iquestcoder jais2 jetmoe kimi_linear kolibri1 laguna lfm2 lfm2_moe lfm3 llama
longcat_flash mamba2 mellum mimo_v2_flash minicpm3 minimax_m2 ministral ministral3 mistral mixtral moshi
nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3
qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma
xglm youtu zamba2
"""
TESTED = frozenset(_NAMES.split())
