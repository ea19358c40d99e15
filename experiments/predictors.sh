#!/bin/sh
# Reproduces the table of length predictors: every predictor of the paper and the cheaper and
# later ones, trained on TRAIN, evaluated once on VAL, with learning curves and three seeds.
#
#   sh experiments/predictors.sh [TRAIN VAL]
#
# TRAIN and VAL are length datasets (Parquet). Without them the embedded SmolLM2 lengths are
# taken, which show the way in minutes. The paper's own lengths are imported first:
#
#   lenaware import --from sequence-scheduling --instructions alpaca-train-10k.json \
#       --lengths alpaca-train-10k-length.json --out train.parquet
#   lenaware import --from sequence-scheduling --instructions alpaca-val-10k.json \
#       --lengths alpaca-val-10k-length.json --out val.parquet
#
# Choices are made on a part of TRAIN that `finetune` keeps apart; VAL is looked at once, at the
# end. Folders that are trained already are kept: a run that was stopped goes on where it was.
#
# Settings, from the environment:
#   LENAWARE  the program                      [lenaware]
#   LABEL     max, mean or a quantile          [max]
#   RUNS      where predictors are trained     [runs/predictors]
#   OUT       the folder of the evaluation     [results/predictors/<UTC time>]
#   KINDS     what is trained                  [lexical neighbour ridge pooling-mlp head
#                                               lora-head stack lora len-token]; also: encoder
#   SIZES     instructions of learning curves  [1000 2000 5000; 100 200 where embedded]
#   CURVES    the kinds that have one          [lexical head]
#   SEEDS     seeds of head and lora-head      [1 2 3]
#   MODEL     what is looked into and tuned    [smollm2-135m]
set -eu

program=${LENAWARE:-lenaware}
train=${1:-embedded}
val=${2:-$train}
label=${LABEL:-max}
runs=${RUNS:-runs/predictors}
out=${OUT:-results/predictors/$(date -u +%Y-%m-%dT%H-%M-%SZ)}
kinds=${KINDS:-lexical neighbour ridge pooling-mlp head lora-head stack lora len-token}
curves=${CURVES:-lexical head}
seeds=${SEEDS:-1 2 3}
model=${MODEL:-smollm2-135m}
case $train in
    embedded) sizes=${SIZES:-100 200} ;;
    *) sizes=${SIZES:-1000 2000 5000} ;;
esac
case $runs in
    */*) ;;
    *) runs=./$runs ;; # a trained predictor is named by a path with a slash
esac

# train_one FOLDER SEED FLAGS...: trains into the folder, unless that was done before.
train_one() {
    folder=$1
    seed=$2
    shift 2
    if [ -f "$folder/predictor.json" ]; then
        return
    fi
    resume=
    if [ -f "$folder/checkpoint.safetensors" ]; then
        resume=--resume
    fi
    "$program" --seed "$seed" finetune --dataset "$train" --label "$label" --out "$folder" \
        $resume "$@"
}

# model_of KIND: the flags that name the model, for the kinds that look into one. Heads share
# the hidden states that the first of them computes.
model_of() {
    case $1 in
        lexical | neighbour | encoder | stack) ;;
        head | pooling-mlp) echo "--model $model --states-cache $runs/states" ;;
        *) echo "--model $model" ;;
    esac
}

# with KIND: whether the kind is to be trained.
with() {
    case " $kinds " in
        *" $1 "*) return 0 ;;
        *) return 1 ;;
    esac
}

# The rows of the table, one `--predictor` each.
set -- --predictor constant --predictor input-length

for kind in $kinds; do
    case $kind in
        head | lora-head)
            group=
            case $kind in
                head) how="--predictor head $(model_of head)" ;;
                *) how="--config $(dirname "$0")/finetune/lora-head.toml $(model_of lora-head)" ;;
            esac
            for seed in $seeds; do
                train_one "$runs/$kind-seed-$seed" "$seed" $how
                group=$group${group:+,}$runs/$kind-seed-$seed
            done
            set -- "$@" --predictor "$group"
            ;;
        stack)
            # Mixes what was trained before it: with fewer than two there is nothing to mix.
            members=
            for member in lexical neighbour head-seed-${seeds%% *} \
                $(for seed in $seeds; do echo "lora-head-seed-$seed"; done); do
                if [ -f "$runs/$member/predictor.json" ]; then
                    members=$members${members:+,}$runs/$member
                fi
            done
            case $members in
                *,*) ;;
                *) continue ;;
            esac
            train_one "$runs/stack" 1 --predictor stack --members "$members"
            set -- "$@" --predictor "$runs/stack"
            ;;
        *)
            train_one "$runs/$kind" 1 --predictor "$kind" $(model_of "$kind")
            set -- "$@" --predictor "$runs/$kind"
            ;;
    esac
done

for kind in $curves; do
    with "$kind" || continue
    for size in $sizes; do
        train_one "$runs/$kind-$size" 1 --predictor "$kind" --limit "$size" --no-refit \
            $(model_of "$kind")
        set -- "$@" --predictor "$runs/$kind-$size"
    done
done

# The floor and the cheapest are fitted on the training data, never on what is evaluated.
"$program" evaluate --dataset "$val" --fit-on "$train" --label "$label" --model "$model" \
    "$@" --out "$out"
