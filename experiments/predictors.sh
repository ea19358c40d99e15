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
# On the paper's lengths it takes about two and a half hours of two cores.
#
# Settings, from the environment:
#   LENAWARE  the program                      [lenaware]
#   LABEL     max, mean or a quantile          [max]
#   RUNS      where predictors are trained     [runs/predictors]
#   OUT       the folder of the evaluations    [results/predictors/<UTC time>]
#   KINDS     what is trained                  [lexical neighbour ridge pooling-mlp head
#                                               lora-head stack lora len-token]; also: encoder
#   SIZES     instructions of learning curves  [1000 2000 5000; 100 200 where embedded]
#   CURVES    the kinds that have one          [lexical head]; also: lora-head
#   SEEDS     seeds of head and lora-head      [1 2 3]
#   MODEL     what is looked into and tuned    [smollm2-135m]
#   FIRST     the model is asked for its own lengths, untuned, over so many instructions of
#             VAL, and all others are evaluated on these beside it; 0: not   [1000]
set -eu

program=${LENAWARE:-lenaware}
here=$(dirname "$0")
train=${1:-embedded}
val=${2:-$train}
label=${LABEL:-max}
runs=${RUNS:-runs/predictors}
out=${OUT:-results/predictors/$(date -u +%Y-%m-%dT%H-%M-%SZ)}
kinds=${KINDS:-lexical neighbour ridge pooling-mlp head lora-head stack lora len-token}
curves=${CURVES:-lexical head}
seeds=${SEEDS:-1 2 3}
model=${MODEL:-smollm2-135m}
first=${FIRST:-1000}
case $train in
    embedded) sizes=${SIZES:-100 200} ;;
    *) sizes=${SIZES:-1000 2000 5000} ;;
esac
case $here$runs in
    *[[:space:]]*)
        echo "paths with spaces are not taken: $here $runs" >&2
        exit 2
        ;;
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
    if [ ! -f "$folder/predictor.json" ]; then
        "$program" --seed "$seed" finetune --dataset "$train" --label "$label" --resume \
            --out "$folder" "$@"
    fi
}

# how KIND: the flags it is trained with. Heads share the hidden states that the first of them
# computes.
how() {
    case $1 in
        lexical | neighbour | encoder | stack) echo "--predictor $1" ;;
        head | pooling-mlp) echo "--predictor $1 --model $model --states-cache $runs/states" ;;
        lora | lora-head | len-token) echo "--config $here/finetune/$1.toml --model $model" ;;
        *) echo "--predictor $1 --model $model" ;;
    esac
}

# with KIND: whether the kind is to be trained.
with() {
    case " $kinds " in
        *" $1 "*) return 0 ;;
        *) return 1 ;;
    esac
}

# seeded KIND: the folders of its seeds that are trained, with commas.
seeded() {
    group=
    for seed in $seeds; do
        if [ -f "$runs/$1-seed-$seed/predictor.json" ]; then
            group=$group${group:+,}$runs/$1-seed-$seed
        fi
    done
    echo "$group"
}

# The rows of the table, one `--predictor` each.
set -- --predictor constant --predictor input-length

for kind in $kinds; do
    case $kind in
        head | lora-head)
            for seed in $seeds; do
                train_one "$runs/$kind-seed-$seed" "$seed" $(how "$kind")
            done
            set -- "$@" --predictor "$(seeded "$kind")"
            ;;
        stack)
            # Mixes what was trained before it: the tuned heads of all seeds, and these with
            # the untuned one. With fewer than two there is nothing to mix.
            tuned=$(seeded lora-head)
            untuned=$(seeded head)
            for members in "$tuned" "${untuned:+$tuned${tuned:+,}${untuned%%,*}}"; do
                case $members in
                    *,*) ;;
                    *) continue ;;
                esac
                folder=$runs/stack
                case $members in
                    *"$runs/head"*) folder=$runs/stack-with-head ;;
                esac
                train_one "$folder" 1 --predictor stack --members "$members"
                set -- "$@" --predictor "$folder"
            done
            ;;
        *)
            train_one "$runs/$kind" 1 $(how "$kind")
            set -- "$@" --predictor "$runs/$kind"
            ;;
    esac
done

if [ "$first" -gt 0 ]; then
    "$program" evaluate --dataset "$val" --fit-on "$train" --label "$label" --model "$model" \
        --limit "$first" "$@" --predictor perception-only --predictor pia \
        --out "$out/first-$first"
fi

for kind in $curves; do
    with "$kind" || continue
    for size in $sizes; do
        train_one "$runs/$kind-$size" 1 $(how "$kind") --limit "$size" --no-refit
        set -- "$@" --predictor "$runs/$kind-$size"
    done
done

# The floor and the cheapest are fitted on the training data, never on what is evaluated.
"$program" evaluate --dataset "$val" --fit-on "$train" --label "$label" --model "$model" \
    "$@" --out "$out/all"
