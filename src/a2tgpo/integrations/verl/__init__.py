"""Per-turn credit on Ray clusters, as a plug-in of verl's V1 trainer.

    python -m verl.trainer.main_ppo trainer.v1.trainer_mode=a2tgpo algorithm.adv_estimator=a2tgpo +a2tgpo.method=…

    plugin            found through verl's entry points; registers the trainer, the estimator's name and the agent loop
    credit_trainer    driver: credit over the whole batch, from TransferQueue's columns
    scoring_worker    workers: the gold answer's likelihood at every turn boundary, from the actor's own module
    turn_credit_loss  workers: `pipeline.turn_loss` of a micro-batch
    search_loop       agent loops: the paper's tags over our retrieval; verl's tool_agent, scored by its server
    server_scoring    agent loops: the answer's likelihood, asked of the rollout server
    credit_settings, refusals    the keys `+a2tgpo.*`, and what of verl's configuration cannot be honoured

`queue_rows`, `micro_batch`, `gold_answers` and `run_log` are on plain tensors and know no verl.
"""
