// Enrol a device with Node.js: node enrol.mjs NAME mqtts://HOST:PORT CA.pem   (npm install mqtt; openssl makes the request)
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const mqtt = createRequire(import.meta.url)('mqtt')
const [name, url, ca] = process.argv.slice(2)
process.umask(0o077)
const openssl = (...args) => execFileSync('openssl', args, { encoding: 'utf8' })
if (!existsSync(`${name}.key`)) {
  openssl('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', `${name}.key`)
}
const csr = openssl('req', '-new', '-key', `${name}.key`, '-subj', `/CN=${name}`)

// A claim token, if there is one: then nobody has to decide.
const token = process.env.TOKEN_FILE && readFileSync(process.env.TOKEN_FILE, 'utf8').trim()

const client = mqtt.connect(url, { protocolVersion: 5, ca: readFileSync(ca) })
const ask = () => client.publish('$registry/register', JSON.stringify({ username: name, csr, token }))
client.on('connect', () => client.subscribe('$registry/register/response', ask)) // after each reconnection too
client.on('error', error => { console.error(String(error)); process.exit(1) })

let again
client.on('message', (_topic, payload) => {
  const answer = JSON.parse(payload)
  clearTimeout(again)
  if ([202, 423, 429].includes(answer.status)) {
    console.log(answer.state, answer.pairing_code ?? '', answer.message ?? '')
    again = setTimeout(ask, answer.retry_after * 1000) // the decision is pushed the moment it falls
  } else if (answer.status === 201) {
    writeFileSync(`${name}.pem`, answer.certificate + answer.chain)
    console.log('granted, good until', answer.not_after)
    client.end()
  } else {
    console.error(answer.message)
    process.exit(1)
  }
})
